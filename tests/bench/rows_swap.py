# SPDX-License-Identifier: Apache-2.0
"""Rows of access.c against swap to zram under the same memory limit (lib_swap.py), and of xmem's policies among themselves.
The goals are for a quarter of the set local and data that does not compress; row matrix has the other combinations."""
import itertools

from lib_bench import ACCESS, ROUNDS, SMALL, digits, floor, info, median, plain, result
from lib_swap import MIB, Job, arena

SET = 32 * MIB if SMALL else 512 * MIB
SECONDS = 0.1 if SMALL else 2
SHARE = 25
PATTERNS = ("seqread", "seqwrite", "randread", "randrw", "zipf", "strided", "chase")
STREAMS = ("seqread", "seqwrite")
BARE = {"randread": 1, "randrw": 0, "randwrite": 0, "seqwrite": 0, "zipf": 1}  # and whether reads had better come in protected
WORDS = {"seqread": "sequential read", "seqwrite": "sequential write", "randread": "random read",
         "randrw": "random read-write", "zipf": "zipf 0.99", "strided": "every fifth page", "chase": "pointer chase"}


def job(pattern, threads=1, data="incompressible", size=SET, seconds=SECONDS, warm=1):
    argv = [ACCESS, pattern, f"size={size}", f"seconds={seconds}", f"threads={threads}", f"data={data}", f"warm={warm}"]
    return Job("access", argv, size)


def bare_run(pattern, threads=1, seconds=SECONDS, warm=1):
    """The same access, paged by the least that can do it in fault mode `thread` (bare.h), with as many frames."""
    return plain(pattern, f"size={SET}", f"seconds={seconds}", f"threads={threads}", f"warm={warm}", f"bare={SET * SHARE // 100}",
                 f"bare_track={BARE[pattern]}")


def rate(run):
    """Single accesses or pages, a second."""
    return run["accesses_per_s"] or run["stream_mib_per_s"] * 256


def cpu_us(run):
    """Processor time of the process for each access that faulted, or each page of a stream."""
    return (run["user_s"] + run["sys_s"]) * 1e6 / max(run["pages"] or run["faults"], 1)


def moved(run):
    """Bytes moved for a byte of the pages that were used, filling and warming included."""
    return run["moved_bytes"] / (4096 * (run["accesses"] + run["pages"] + 2 * run["bytes"] / 4096))


def per_side(runs, figure):
    return {side: median([figure(r) for r in rs]) for side, rs in runs.items() if rs}


def ratios(runs, figure):
    return [figure(a) / max(figure(b), 1e-9) for a, b in zip(runs["xmem"], runs["zram"])]


def in_turn(a, jobs, share=SHARE, rounds=ROUNDS, beside_it=None):
    """{key: {side: [figures]}} for jobs {key: job}, both sides one after the other in every round. A round in which one
    side was killed does not count. beside_it(key): run in every round, too."""
    runs = {key: {side: [] for side in a.sides()} for key in jobs}
    for _ in range(rounds):
        for key, j in jobs.items():
            if beside_it:
                beside_it(key)
            got = {side: a.run(side, j, share) for side in a.sides()}
            if all(got.values()):
                for side, r in got.items():
                    runs[key][side].append(r)
    return runs


def beside(runs, figure, unit, number=digits):
    return ", ".join(f"{side} {number(v)} {unit}".strip() for side, v in per_side(runs, figure).items())


def line(runs, what, figure, limit, **more):
    """xmem against zram by one figure; what: of the goal. Without a zram, or when every run was killed: a figure."""
    best = more.pop("best", max)
    if runs.get("zram") and runs["xmem"]:
        return result(f"{what} {'>=' if best is max else '<='} {limit} x zram", ratios(runs, figure), limit, best=best, **more)
    if runs["xmem"]:
        return info(f"{what}, without a zram to compare with", median([figure(r) for r in runs["xmem"]]), "", **more)
    return info(f"{what}: every run was killed", 0, "", **more)


def why_alone(a):
    return f"; not compared: {a.no_zram}" if a.no_zram else ""


def access_note(a, runs, local, bare):
    unit = "MiB/s" if local["pages"] else "accesses/s"
    shown = (lambda r: r["stream_mib_per_s"]) if local["pages"] else rate
    return (f"{beside(runs, shown, unit)}; everything local {digits(shown(local))}; CPU a "
            f"{'page' if local['pages'] else 'fault'} {beside(runs, cpu_us, 'us')}; moved a used byte {beside(runs, moved, '')}; bare fault "
            f"{digits(bare['fault_same_us'])} us on one processor, {digits(bare['fault_free_us'])} free"
            + why_alone(a) + a.killed())


def tail_line(pattern, runs, threads, words):
    """p99 of what faulted, or p99.9 of all accesses of a stream."""
    key, q, what = ("access_us", "p999", "p99.9 of accesses") if pattern in STREAMS else \
        ("fault_us", "p99", "p99 of a fault")

    def tail(r):
        return r[key][q]

    floor_text = "; ".join(
        f"{side}: p50 {digits(median([r[key]['p50'] for r in rs]))}, {what.split(' ')[0]} {digits(median([tail(r) for r in rs]))}, "
        f"max {digits(max(r[key]['max'] for r in rs))} us" for side, rs in runs.items() if rs)
    return line(runs, f"{words}, {threads}: {what}", tail, 1, best=min, floor=floor_text)


def swap_row(pattern, limits):
    """limits: {threads: what the rate has to reach, as a multiple of zram's}."""
    a = arena()
    a.killed()
    bare = floor("fault", *(["1000"] if SMALL else []))
    copied = floor("copy")["copy_mib_per_s"] if pattern in STREAMS else None
    lines, words = [], WORDS[pattern]
    if SMALL:
        limits = {1: limits[1]}
    # zipf: long enough that pages which are seen for the first time count for little on either side
    jobs = {t: job(pattern, t, seconds=SECONDS * (2 if pattern == "zipf" else 1)) for t in limits}
    everything = {t: a.local(job(pattern, t, seconds=SECONDS / 4)) for t in limits}
    least = {t: [] for t in limits} if pattern in BARE and pattern not in STREAMS else {}
    measure = (lambda t: least[t].append(rate(bare_run(pattern, t)))) if least else None
    for t, runs in in_turn(a, jobs, beside_it=measure).items():
        threads = f"{t} thread" + ("s" if t > 1 else "")
        note = access_note(a, runs, everything[t], bare)
        if least:
            note += f"; the least that a pager of this mode can be {digits(median(least[t]))} accesses/s"
            if runs.get("zram"):
                note += f", {digits(median(least[t]) / max(median([rate(r) for r in runs['zram']]), 1e-9))} x zram"
        if copied:
            note += f"; batched UFFDIO_COPY {digits(copied)} MiB/s"
        lines.append(line(runs, f"{words}, {threads}: {'MiB/s' if pattern in STREAMS else 'accesses/s'}", rate, limits[t],
                          floor=note, parts=runs, local=everything[t], pattern=pattern, threads=t))
        if pattern in ("randread", "randrw"):
            lines[-1]["floor"] += f"; faults/s {beside(runs, lambda r: r['faults_per_s'], '')}"
        if pattern not in ("zipf", "strided", "chase"):
            lines.append(tail_line(pattern, runs, threads, words))
        if pattern == "zipf":
            lines.append(line(runs, f"zipf 0.99, {threads}: share of accesses that fault", lambda r: r["faults"] / r["accesses"],
                              1, best=min, floor=beside(runs, lambda r: 100 * r["faults"] / r["accesses"], "%")))
    return lines


def no_goal(lines):
    """The same as figures."""
    return [ln if ln["met"] is None else dict(ln, goal="none: " + ln["goal"].split(" >= ")[0] + ", against zram", met=None)
            for ln in lines]


def row_policies():
    """Of eviction: three patterns that tell them apart. Of prefetch: what they are for, and what they must not hurt."""
    a = arena()
    a.killed()
    evict, prefetch = ("zipf", "randread", "seqread"), ("seqread", "strided", "randread", "chase")
    tried = [("--evict", n, p) for n in ("s3fifo", "clock") for p in evict[:1 if SMALL else None]]
    tried += [("--prefetch", n, p) for n in ("majority", "stride", "none") for p in prefetch[:1 if SMALL else None]]
    got = {key: [] for key in tried}
    for _ in range(ROUNDS):
        for option, name, pattern in tried:
            r = a.run("xmem", job(pattern, seconds=SECONDS / 2), SHARE, (option, name))
            if r:
                got[option, name, pattern].append(r)
    lines = []
    for (option, name, pattern), runs in got.items():
        if runs:
            s = {k: median([r["stats"][k] for r in runs]) for k in ("fetched_pages", "prefetched_pages", "prefetch_waste_pages")}
            note = (f"of {digits(s['fetched_pages'])} pages fetched {digits(s['prefetched_pages'])} were fetched ahead, "
                    f"{digits(s['prefetch_waste_pages'])} of these for nothing")
            lines.append(info(f"{option[2:]} {name}, {WORDS[pattern]}: accesses or pages a second", median([rate(r) for r in runs]),
                              "", floor=note, rounds=[rate(r) for r in runs], option=option[2:], policy=name, pattern=pattern))
    if lines:
        lines[-1]["floor"] += a.killed()
    return lines


def row_evict():
    """Processor time of evictions (the runtime's own sum over batches, copy to the store included) for a page that left:
    what a run with the pattern has more than one that only fills and warms."""
    a = arena()
    a.killed()
    kinds = (("scattered dirty", "randwrite", 1, 1.3), ("neighbouring dirty", "seqwrite", 0, 0.8), ("clean", "randread", 1, 0.6))
    got = {kind: [] for kind, *_ in kinds}
    dirty = {kind: [] for kind, *_ in kinds}
    least = {kind: [] for kind, *_ in kinds}
    for _ in range(ROUNDS):
        for kind, pattern, warm, _ in kinds:
            least[kind].append(bare_run(pattern, warm=warm, seconds=2 * SECONDS)["bare_evict_us"])
            base = a.run("xmem", job("none", warm=warm), SHARE)
            full = a.run("xmem", job(pattern, warm=warm, seconds=2 * SECONDS), SHARE)
            if base and full:
                more = {k: full["stats"][k] - base["stats"][k] for k in ("evict_cpu_ns", "evicted_pages", "evicted_dirty_pages")}
                got[kind].append(more["evict_cpu_ns"] / max(more["evicted_pages"], 1) / 1000)
                dirty[kind].append(more["evicted_dirty_pages"] / max(more["evicted_pages"], 1))
    killed = a.killed()
    return [result(f"eviction, {kind}: CPU a page <= {limit} us", got[kind], limit, unit="us",
                   floor=f"the least that a pager can be {digits(median(least[kind]))} us; {median(dirty[kind]):.0%} of the pages "
                         f"were dirty{killed}")
            if got[kind] else info(f"eviction, {kind}: every run was killed", 0, "", floor=killed)
            for kind, _, _, limit in kinds]


def row_matrix():
    """Every combination once, with a smaller set: figures, for the plots."""
    a = arena()
    a.killed()
    size = SET if SMALL else SET // 2
    shares, threads, datas = ((25,), (1,), ("compressible",)) if SMALL else ((50, 25, 10), (1, 2, 4), ("incompressible", "compressible"))
    lines = []
    for share, t, data, pattern in itertools.product(shares, threads, datas, PATTERNS[1:4] if SMALL else PATTERNS):
        runs = in_turn(a, {0: job(pattern, t, data, size, SECONDS / 4)}, share, rounds=1)[0]
        lines += no_goal([line(runs, f"{WORDS[pattern]}, {t} thread{'s' if t > 1 else ''}, {data}, {share} % local: rate", rate, 1,
                    floor=beside(runs, rate, "/s") + why_alone(a), parts=runs, pattern=pattern, threads=t, data=data, share=share)])
    lines[-1]["floor"] += a.killed()
    return lines


ROWS = {
    "swap_randread": lambda: swap_row("randread", {1: 1.5, 2: 1.1}),
    "swap_randrw": lambda: swap_row("randrw", {1: 1.5, 2: 1.1}),
    "swap_seqread": lambda: swap_row("seqread", {1: 3, 2: 3}),
    "swap_seqwrite": lambda: swap_row("seqwrite", {1: 3, 2: 3}),
    "swap_zipf": lambda: swap_row("zipf", {1: 1.6}),
    "swap_strided": lambda: no_goal(swap_row("strided", {1: 1, 2: 1})),
    "swap_chase": lambda: no_goal(swap_row("chase", {1: 1, 2: 1})),
    "evict": row_evict,
    "policies": row_policies,
    "matrix": row_matrix,
}
