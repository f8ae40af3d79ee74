#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 120 s
"""The first thing that must work: python3 fills 128 MiB at a budget of 32 MiB and reads it back, over shm, over
tcp and through the private appliance. And the assertions that the other tests lean on can fail."""

import lib_xmem as x

PROGRAM = """
import hashlib
pages = [(b"%08d" % i) * 512 for i in range(32768)]
h = hashlib.sha256()
for p in pages: h.update(p)
for p in reversed(pages): h.update(p)
print(h.hexdigest())
"""
BUDGET = 32 * x.MIB


def expect_failure(what, fn, *args):
    try:
        fn(*args)
    except x.Failed as e:
        x.say(f"  fails as it must: {what}: {e}")
        return
    raise x.Failed(f"{what} went unnoticed")


def main():
    x.init()
    argv = ["/usr/bin/python3", "-c", PROGRAM]
    plain = x.run_plain(argv)
    x.say(f"ordinary run: {plain.seconds:.1f} s, peak {plain.peak // x.MIB} MiB")
    x.check(plain.peak > 128 * x.MIB, f"the peak of {plain.peak} was not measured")
    app = x.Appliance()
    for link in ("private", "shm", "tcp"):
        before = app.stat()
        options = ["--appliance", app.uri[link]] if link != "private" else []
        r = x.run_xmem(argv, BUDGET, options, measure=True)
        after = app.stat()
        x.check(r.out == plain.out, f"{link}: wrong output {r.out!r}")
        x.check_travelled(r, plain.peak, BUDGET, before, after, link)
        x.check_covered(r)
        x.check_budget(r, BUDGET)
        app.wait_empty(5)
        x.say(f"{link}: {r.seconds:.1f} s, uncovered {r.uncovered // x.MIB} MiB")
    before = app.stat()
    r = x.run_xmem(argv, 512 * x.MIB, ["--appliance", app.uri["tcp"]])
    expect_failure("a run that fits its budget", x.check_travelled, r, plain.peak, BUDGET, before, app.stat(), "tcp")
    r.uncovered = plain.peak
    expect_failure("memory that is not covered", x.check_covered, r)


if __name__ == "__main__":
    x.run_main(main)
