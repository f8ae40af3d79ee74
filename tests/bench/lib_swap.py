# SPDX-License-Identifier: Apache-2.0
"""A program under one memory limit, twice: with xmem, and with the kernel's swap to compressed RAM (zram).

Both sides run in a memory cgroup of the same size: the local share of the program's set, and ALLOWANCE beside it for what
is neither side's set: data and stacks of libraries, page tables; for xmem also its page words, its buffers, xmem-run and
the process that xmem-run starts. What xmem and the program need of that is measured once a program and share, without a
limit: --local is what the limit leaves. The appliance is outside, as the compressed pages of zram are. Xmem's group
may not swap. Settings of the kernel (swappiness, page-cluster, algorithm of zram) are left as they are."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "it"))

import lib_xmem as x  # noqa: E402
import zram  # noqa: E402
from lib_bench import SMALL, Missing, build  # noqa: E402

MIB = 1 << 20
ALLOWANCE = 8 * MIB  # for a set of 512 MiB xmem needs 5 of it
# What a look every few milliseconds misses (0.7 MiB), and the moments in which xmem exceeds its budget (over_budget_pages_max; with
# 1 MiB in all one run of eleven was killed)
MARGIN = 5 * MIB // 2
TRIES = 3  # of a run that the kernel kills
LIMIT_S = 300
SIDES = ("zram", "xmem")


class Job:
    """A program to be measured. figures(out): what it says of itself, as a dict. how: drive and cwd as in lib_xmem.run_plain;
    huge: the kernel may use huge pages where it likes (else stacks and libraries alone could fill a small limit)."""

    def __init__(self, name, argv, set_bytes, figures=json.loads, **how):
        self.name, self.argv, self.set_bytes, self.figures, self.how = name, argv, set_bytes, figures, how


def limit_of(job, share):
    return (job.set_bytes * share // 100 + ALLOWANCE) & ~4095


class Arena:
    """Appliance, zram device, and what was learned about programs; runs that the kernel killed are counted in kills."""

    def __init__(self):
        group = x.Cgroup.make()
        if not group:
            raise Missing("no memory cgroup can be made here: run it as root, with the memory controller mounted")
        group.remove()
        x.BUILD = build
        x.init()
        self.stats = os.path.join(x.work, "stats.json")
        self.appliance = x.Appliance(memory="256M" if SMALL else "2G", slab="16M" if SMALL else "64M")
        self.own = {}
        self.kills = {}
        self.zram, self.no_zram = None, None
        try:
            self.zram = zram.Zram(4096 * MIB)
            x.at_exit(self.zram.remove)
        except zram.Impossible as e:
            self.no_zram = str(e)

    def sides(self):
        return [s for s in SIDES if s == "xmem" or self.zram]

    def local(self, job):
        """With all the memory that it likes."""
        clock = x.Clock()
        out, _ = x.run_in(None, job.argv, seconds=LIMIT_S, **job.how)
        return dict(job.figures(out), side="local", wall_s=clock.read()[0])

    def own_bytes(self, job, share):
        """What xmem and the uncovered part of the program need beside the pages."""
        key = (job.name, job.set_bytes, share)
        if key not in self.own:
            group = x.Cgroup.make()
            watch = x.Sampler(group.held, 0.005)
            watch.start()
            try:
                self._covered(group, job, job.set_bytes * share // 100, ())
            finally:
                held = watch.result()
                group.remove()
            pages = self.counted()["resident_pages_max"]
            self.own[key] = max(held - pages * 4096, 0) + MARGIN
        return self.own[key]

    def counted(self):
        """Xmem's statistics of the last run."""
        with open(self.stats, encoding="utf-8") as f:
            return json.load(f)["family"]["total"]

    def _covered(self, group, job, local, options):
        if os.path.exists(self.stats):
            os.unlink(self.stats)
        argv = [x.path_of("xmem-run"), "--fault", x.FAULT, "--strict", "--local", str(local), "--appliance", self.appliance.uri["shm"],
                "--stats=" + self.stats, *options, "--", *job.argv]
        return x.run_in(group, argv, seconds=LIMIT_S, **job.how)[0]

    def xmem(self, job, share, options=()):
        local = max(limit_of(job, share) - self.own_bytes(job, share), 4 * MIB) & ~4095
        group = x.Cgroup.make(limit_of(job, share))
        clock = x.Clock()
        try:
            out = self._covered(group, job, local, options)
        finally:
            group.remove()
        s = self.counted()
        moved = s["fetched_bytes"] + s["written_bytes"]
        return dict(job.figures(out), side="xmem", wall_s=clock.read()[0], moved_bytes=moved, local_bytes=local, stats=s)

    def swap(self, job, share):
        group = x.Cgroup.make(limit_of(job, share), swap=True)
        most = (0, 1)

        def look():
            nonlocal most
            most = max(most, self.zram.holds())
            return most[0]

        watch = x.Sampler(look, 0.05)
        before = self.zram.moved_bytes()
        watch.start()
        clock = x.Clock()
        try:
            out, _ = x.run_in(group, job.argv, seconds=LIMIT_S, **job.how)
        finally:
            watch.result()
            group.remove()
        seen = most[0] >= job.set_bytes // 8  # else: on a busy machine, no look came while it held much
        return dict(job.figures(out), side="zram", wall_s=clock.read()[0], compressed=most[0] / most[1] if seen else None,
                    moved_bytes=self.zram.moved_bytes() - before)

    def run(self, side, job, share, options=()):
        """Figures of one run, or None when the kernel killed it TRIES times."""
        for _ in range(TRIES):
            count = self.kills.setdefault(side, [0, 0])
            count[1] += 1
            try:
                return self.swap(job, share) if side == "zram" else self.xmem(job, share, options)
            except x.Killed:
                count[0] += 1
            except x.Failed as e:
                raise x.Failed(f"{job.name} on {side}: {e}") from None
        return None

    def killed(self):
        """Of the runs since the last call, for a note; empty when none was."""
        text = ", ".join(f"{side} {k} of {n}" for side, (k, n) in self.kills.items() if k)
        self.kills = {}
        return f"; runs that the kernel killed: {text}" if text else ""


_arena = []


def arena():
    """The one that all rows share, made by the first that asks."""
    if not _arena:
        _arena.append(Arena())
    return _arena[0]
