#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 300 s
# time limit, all: 1800 s
"""The programs of this folder that check what calls mean (memory management, threads, processes, descriptors, the
malloc family) pass as ordinary programs, and just so under xmem-run at small budgets, over shm and tcp and with kernel
features masked."""
import itertools
import random
import time

import lib_xmem as x

# program, MiB to work on
PROGRAMS = [("mman_semantics", 32), ("thread_stack", 24), ("fork_semantics", 24), ("fd_protect", 24),
            ("raw_clone", 24), ("malloc_family", 48)]
BUDGETS = (8, 16)  # MiB
MASKS = ("", "move", "poison", "madvise_vec")
EVICTS = ("s3fifo", "clock")


def cases():
    """(program, MiB, budget, link, mask, policy): all of them, or each link, budget, mask and policy with each
    program at least once."""
    for n, (name, mib) in enumerate(PROGRAMS):
        if x.LEVEL != "check":
            for budget, link, mask, evict in itertools.product(BUDGETS, ("shm", "tcp"), MASKS, EVICTS):
                yield name, mib, budget, link, mask, evict
            continue
        for i, mask in enumerate(MASKS):
            j = (i + n) % 4
            yield name, mib, BUDGETS[j % 2], ("shm", "tcp")[j // 2 ^ j % 2], mask, EVICTS[j // 2]


def main():
    x.init()
    app = x.Appliance()
    seed = random.SystemRandom().randrange(1 << 30)
    x.say(f"seed {seed}")
    plain, took = {}, time.monotonic()
    for name, mib in PROGRAMS:
        plain[name] = x.run_plain([x.path_of("tests/it/" + name), str(mib), str(seed)], cwd=x.work, seconds=180).out
    for name, mib, budget, link, mask, evict in cases():
        what = f"{name}, {mib} MiB at {budget} over {link}, {evict}" + (f", without {mask}" if mask else "")
        options = ["--min-map", "64K", "--appliance", app.uri[link], "--evict", evict]
        options += ["--mask", mask] if mask else []
        try:
            r = x.run_xmem([x.path_of("tests/it/" + name), str(mib), str(seed)], budget * x.MIB, options, cwd=x.work,
                           seconds=180)
            # raw_clone may be refused its child; everything else says the same
            x.check(r.out == plain[name] or name == "raw_clone", f"other output: {r.out!r}")
            evicted = r.stats["family"]["total"]["evicted_pages"]
            x.check(evicted > (mib - budget) * 256 // 2, f"only {evicted} pages were evicted")
            app.wait_empty(20)
            x.say(f"{what}: {r.seconds:.1f} s, {evicted} pages evicted")
        except x.Failed as e:
            x.failures.append(f"{what}: {e}")
            x.say(f"FAILED: {what}")
    x.say(f"{time.monotonic() - took:.0f} s")
    x.finish()


if __name__ == "__main__":
    x.run_main(main)
