#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 1100 s
# time limit, all: 14400 s
"""Real programs at a quarter of the memory they need: {program} x {link} x {eviction} x {prefetch} x {feature that the
kernel is said to lack}. At level check a set of runs in which every pair of values of two factors occurs, at level
all the full product. Then each program once (at level all: over each link) as an ordinary user: no capability, and
a /dev/userfaultfd that is the test's own in a private mount namespace; and once in fault mode signal. Each run must have the
output of an ordinary run, sits in a memory cgroup that could not hold the program, and must have moved pages: see
check_travelled() in lib_xmem.py.

    tests/it/programs.py [--list] [--minutes=N] [--part=K/N] [PROGRAM | FACTOR=VALUE | user]...    for some of the runs

The full product takes hours: at level all every processor takes a part of it (--part=K/N, K from 1), with an appliance of
its own. With --minutes the runs come in random order (XMEM_SEED), each program's for an equal share of the time, and the
last line says how many of them there were.
"""
import itertools
import os
import random
import subprocess
import sys
import time

import lib_programs
import lib_xmem as x

FACTORS = {
    "program": [p.name for p in lib_programs.ALL],
    "link": ["shm", "tcp"],
    "evict": ["s3fifo", "clock"],
    "prefetch": ["majority", "stride", "none"],
    "mask": ["none", "move", "poison", "wp", "madvise_vec"],
}
NAMES = list(FACTORS)
NOT_BY_SIGNAL = ("jvm", "fio-io_uring")  # a Java machine is run in mode thread, io_uring is refused (xmem-run's manual)


def pairs_of(row):
    return set(itertools.combinations(zip(NAMES, row), 2))


def pairwise():
    """Greedy and deterministic: the row with most new pairs, until none is missing. Over tcp programs are slower: of
    rows that are equally good the first one, with shm, is taken. Without a mask each program runs in user_rows()."""
    product = [(row, pairs_of(row)) for row in itertools.product(*FACTORS.values()) if row[-1] != "none"]
    missing = set().union(*(p for _, p in product))
    rows = []
    while missing:
        row, got = max(product, key=lambda rp: len(rp[1] & missing))
        rows.append(row)
        missing -= got
    return sorted(rows, key=lambda r: [FACTORS[n].index(v) for n, v in zip(NAMES, r)])


def user_rows():
    """As an ordinary user, no feature masked: over one link each, at level all over both."""
    out = []
    for n, p in enumerate(lib_programs.ALL):
        if p.name not in NOT_BY_SIGNAL:
            out.append((p.name, "shm", "s3fifo", "majority", "none", "user", "signal"))
        evict, prefetch = ("s3fifo", "clock")[n % 2], ("stride", "none", "majority")[n % 3]
        out += [(p.name, link, evict, prefetch, "none", "user") for link in FACTORS["link"]
                if x.LEVEL == "all" or (link == "tcp") == (n % 3 == 2)]
    return out


def wanted(row, args):
    if "user" in args and len(row) == len(NAMES):
        return False
    args = [a for a in args if a != "user"]
    values = dict(zip(NAMES, row))
    for name in NAMES:
        chosen = [a.split("=", 1)[-1] for a in args if ("=" in a and a.startswith(name + "=")) or
                  ("=" not in a and name == "program")]
        if chosen and values[name] not in chosen:
            return False
    return True


class Bench:
    """One program: its ordinary run, its uncovered memory, then as many covered runs as are asked for."""

    def __init__(self, program, appliances):
        self.p, self.appliances = program, appliances
        program.prepare()
        self.plain = x.run_plain(program.command(), program.user, program.dir, program.env, program.drive)
        self.expected = program.result(self.plain.out)
        self.budget = self.plain.peak // 4 & ~4095
        x.say(f"{program.name}: {program.version_text()}; ordinary run {self.plain.seconds:.1f} s (cpu "
              f"{self.plain.cpu:.1f}), peak {self.plain.peak // x.MIB} MiB")
        x.check(self.plain.peak >= 256 * x.MIB, f"{program.name}: the peak is below 256 MiB")
        # with room for everything: what libraries and stacks take locally does not depend on the budget
        first = self.covered("shm", ["--local", str(2 * self.plain.peak)], stays=True, measure=True)
        self.uncovered = first.uncovered
        x.say(f"{program.name}: budget {self.budget // x.MIB} MiB, uncovered {self.uncovered // x.MIB} MiB, memory "
              f"limit {self.limit() // x.MIB} MiB, {first.seconds:.1f} s (cpu {first.cpu:.1f})")

    def limit(self):
        return (self.budget + self.uncovered + x.SLACK) & ~4095

    def covered(self, link, options, stays=False, user=None, **how):
        p = self.p
        user = p.user if user is None else user
        app = self.appliances[user]
        before = app.stat()
        r = x.run_xmem(p.command(), self.budget, ["--appliance", app.uri[link], *options], user=user, cwd=p.dir,
                       env=p.env, drive=p.drive, **how)
        after = app.stat()
        got = p.result(r.out)
        x.check(got == self.expected, f"output {got[:300]!r}, of the ordinary run {self.expected[:300]!r}")
        if not stays:
            x.check_travelled(r, self.plain.peak, self.budget, before, after, link)
            x.check_budget(r, self.budget)
        x.check_covered(r)
        app.wait_empty(5)
        return r

    def row(self, link, evict, prefetch, mask, user=None, fault=None):
        options = ["--evict", evict, "--prefetch", prefetch]
        options += ["--fault", fault] if fault else []
        if mask != "none":
            options += ["--mask", mask]
        if self.p.pins and mask == "move":
            # The kernel holds pages and cannot tell which: they stay, whatever the budget, and the user is warned.
            # Only without MOVE: without WP every page leaves by MOVE, which refuses the pinned ones, as it does
            # for such programs anyway; the other features have no part in it.
            r = self.covered(link, options, stays=True)
            x.check("not evicted" in r.err, f"no warning that pages are not evicted: {r.err!r}")
            return r
        if user:
            for path in [self.p.dir, *(e.path for e in os.scandir(self.p.dir))]:
                os.chown(path, x.NOBODY, x.NOBODY)
        r = self.covered(link, options, limit=self.limit(), user=bool(user) or self.p.user)
        t = r.stats["family"]["total"]
        x.check(fault != "signal" or (t["faults_by_signal"] > 0 and t["message_reads"] == 0), "not in fault mode signal")
        return r


def run_program(cls, rows, appliances, seconds=None):
    """How many rows were run: all, or those that were begun within `seconds`."""
    end = time.monotonic() + seconds if seconds else None
    try:
        bench = Bench(cls(), appliances)
    except (x.Failed, OSError) as e:
        x.failures.append(f"{cls.name}: {e}")
        x.say(f"FAILED {cls.name}: {e}")
        return 0
    for n, row in enumerate(rows):
        if end and time.monotonic() > end:
            return n
        name = " ".join(row)
        try:
            r = bench.row(*row[1:])
        except (x.Failed, OSError) as e:
            x.failures.append(f"{name}: {e}")
            x.say(f"FAILED {name}: {e}")
            continue
        t = r.stats["family"]["total"]
        x.say(f"ok {name}: {r.seconds:.1f} s (cpu {r.cpu:.1f}), {t['written_bytes'] // x.MIB} MiB out, "
              f"{t['fetched_bytes'] // x.MIB} in")
    return len(rows)


def check_is_ordinary():
    """The set-up itself: the program is nobody without capabilities, and the machine's node is untouched."""
    out = x.run_plain(["/bin/sh", "-c", "id -u; grep CapEff /proc/self/status; stat -c %a /dev/userfaultfd"], user=True).out
    uid, caps, mode = out.decode().split("\n")[:3]
    x.check(uid == str(x.NOBODY) and caps.split()[1].strip("0") == "" and mode == "666", f"not an ordinary user: {out!r}")
    mode = os.stat("/dev/userfaultfd").st_mode & 0o777
    x.say(f"ordinary user: nobody with a node of its own; the machine's has mode {mode:o}")


def in_parts(n):
    """This command n times beside each other, each with its part of the runs: whether all of them passed."""
    parts = [subprocess.Popen([sys.executable, *sys.argv, f"--part={k}/{n}"]) for k in range(1, n + 1)]
    try:
        return [p.wait() for p in parts] == [0] * n
    finally:
        for p in parts:
            p.kill()


def main():
    args = [a for a in sys.argv[1:] if not a.startswith("-")]
    rows = list(itertools.product(*FACTORS.values())) if x.LEVEL == "all" else pairwise()
    rows = [r for r in rows + user_rows() if wanted(r, args)]
    part = [a.split("=", 1)[1].split("/") for a in sys.argv[1:] if a.startswith("--part=")]
    minutes = [float(a.split("=", 1)[1]) for a in sys.argv[1:] if a.startswith("--minutes=")]
    if minutes:
        random.Random(lib_programs.SEED).shuffle(rows)
    if part:
        rows = rows[int(part[0][0]) - 1::int(part[0][1])]
    if "--list" in sys.argv:
        print("\n".join(" ".join(r) for r in rows))
        return
    x.init(["unshare", "setpriv"])
    x.say(f"{len(rows)} runs; seed {lib_programs.SEED} (XMEM_SEED)")
    if not x.Cgroup.make():
        x.say("no memory cgroup can be made here: programs run without a limit")
    no_user = x.user_possible()
    appliances = {False: x.Appliance()}
    if not no_user:
        appliances[True] = x.Appliance(user=x.NOBODY)
        check_is_ordinary()
    start, done, programs = time.monotonic(), 0, len({r[0] for r in rows})
    for cls in lib_programs.ALL:
        mine = [r for r in rows if r[0] == cls.name]
        lacking = [n for n in cls.need if not x.shutil.which(n)]
        if not mine:
            continue
        if lacking or (no_user and cls.user):
            x.failures.append(f"{cls.name}: {no_user if not lacking else lacking[0] + ' is not installed'}")
            continue
        if no_user and any(len(r) > len(NAMES) for r in mine):
            x.say(f"{cls.name}: not run as an ordinary user: {no_user}")
            mine = [r for r in mine if len(r) == len(NAMES)]
        done += run_program(cls, mine, appliances, minutes[0] * 60 / programs if minutes else None)
    x.say(f"{done} of {len(rows)} runs in {time.monotonic() - start:.0f} s, {len(x.failures)} failed")
    x.finish()


if __name__ == "__main__":
    if x.LEVEL == "all" and not any(a.startswith(("--part=", "--list")) for a in sys.argv):
        sys.exit(0 if in_parts(len(os.sched_getaffinity(0))) else 1)
    main()
