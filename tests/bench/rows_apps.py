# SPDX-License-Identifier: Apache-2.0
"""Rows of real programs: how much slower they are at half and at a quarter of their set than with all of it in memory, with
xmem and with swap to zram under the same memory limit (lib_swap.py); the goal is for the parts above 1.0. Every run must
give what the ordinary one gave."""
import json
import os
import shutil
import subprocess

from lib_bench import ROUNDS, SMALL, Broken, Missing, build, digits, info, median, result
from lib_swap import MIB, Job, arena
import lib_programs
import lib_xmem as x

SHARES = (50,) if SMALL else (50, 25)
BARE = os.path.join(build, "tests/bench/bare_preload.so")
REDIS_LOAD = os.path.join(build, "tests/bench/redis_load")


class Sort(lib_programs.Program):
    """GNU sort of integers in memory: text and, for each line, 32 bytes that are moved about."""

    name, need = "app_sort", ("sort", "sha256sum")
    lines = 300_000 if SMALL else 7_000_000

    def prepare(self):
        with open(self.file("in"), "wb") as f:
            subprocess.run(["awk", f"BEGIN {{ s = {lib_programs.SEED}; for (i = 0; i < {self.lines}; i++) "
                            "{ s = (s * 16807) % 2147483647; print s } }"], stdout=f, check=True)

    def command(self):
        # pipefail: a sort that the kernel kills must not look like one that found nothing
        return ["/bin/bash", "-c", 'set -o pipefail; sort --parallel=2 -S 1G "$1" | sha256sum', "bash", self.file("in")]

    def figures(self, out):
        return {"same": out.split()[0].decode()}


class Numpy(lib_programs.Program):
    name, need = "app_numpy", ("/usr/bin/python3",)
    words = (2 << 20) if SMALL else (24 << 20)  # of 8 bytes, twice
    text = """
import hashlib, json, time
import numpy as np
t = [time.monotonic()]
lap = lambda: t.append(time.monotonic())
a = np.random.default_rng(%d).random(%d); lap()
b = a * 2.5
for _ in range(3):
    b += a
total = float(b.sum()); lap()
a.sort(); lap()
digest = hashlib.sha256(a[::97].tobytes() + b[::89].tobytes()).hexdigest()
print(json.dumps(dict(same=[total, digest], fill=t[1] - t[0], stream=t[2] - t[1], sort=t[3] - t[2])))
"""

    def prepare(self):
        if subprocess.run(["/usr/bin/python3", "-c", "import numpy"], stderr=subprocess.DEVNULL, check=False).returncode:
            raise Missing("python3-numpy is not installed (tools/setup test)")
        self.file("p.py", self.text % (lib_programs.SEED, self.words))

    def command(self):
        return ["/usr/bin/python3", self.file("p.py")]

    def figures(self, out):
        return json.loads(out)


class Sqlite(lib_programs.Program):
    """A table and an index of it, then look-ups in the order of the index, changes and sums. A quarter of a row is
    numbers in hexadecimal, the rest repeats, as text does."""

    name, need = "app_sqlite", ("sqlite3",)
    rows = 16_000 if SMALL else 260_000
    varied = 40
    text = """
CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, v TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
INSERT INTO t SELECT i, (i * 2654435761) % 1000003, printf('%.*c{format}', 900, char(97 + i % 26), {numbers}) FROM n;
CREATE INDEX tk ON t(k);
SELECT count(*), sum(k), sum(length(v)) FROM t;
SELECT sum(id * unicode(substr(v, 901 + id % 300, 1))) FROM (SELECT id, v FROM t INDEXED BY tk WHERE k < 200000 ORDER BY k);
UPDATE t SET v = 'x' || substr(v, 2) WHERE k BETWEEN 300000 AND 350000;
SELECT count(*), sum(unicode(substr(v, 901 + k % 300, 1))), max(substr(v, 1, 12)) FROM t;
"""

    def prepare(self):
        numbers = ", ".join(f"(i * 2654435761 * {c}) & 4294967295" for c in range(1001, 1001 + 2 * self.varied, 2))
        self.file("p.sql", self.text.replace("{rows}", str(self.rows)).replace("{format}", "%08x" * self.varied)
                  .replace("{numbers}", numbers))

    def command(self):
        return ["/usr/bin/sqlite3", "-batch", ":memory:", f".read {self.file('p.sql')}"]

    def figures(self, out):
        return {"same": out.decode()}


class Redis(lib_programs.Program):
    """The client is outside of the memory limit: redis_load.c."""

    name, need = "app_redis", ("redis-server",)
    keys = 6_000 if SMALL else 96_000
    seconds = 0.2 if SMALL else 2
    loads = ("get", "mixed", "zipf")

    def command(self):
        return ["redis-server", "--port", "0", "--unixsocket", self.file("sock"), "--dir", self.dir, "--save", "",
                "--appendonly", "no", "--logfile", self.file("log")]

    def drive(self, p):
        r = lib_programs.RedisClient(self.file("sock"), watch=p)
        got = subprocess.run([REDIS_LOAD, self.file("sock"), str(self.keys), str(self.seconds)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, check=False)
        x.check(got.returncode == 0, f"redis_load: {(got.stdout + got.stderr).decode(errors='replace')[-300:]}")
        r.s.sendall(b"*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n")
        return got.stdout

    def figures(self, out):
        return dict(json.loads(out.split(b"\n")[0]), same=None)  # redis_load looked at every value


def prepared(kind):
    """The program, its peak of memory as an ordinary run has it, and what that run gave."""
    for name in kind.need:
        if not shutil.which(name):
            raise Missing(f"{name} is not installed (tools/setup test)")
    p = kind()
    p.prepare()
    ordinary = x.run_plain(p.command(), cwd=p.dir, drive=p.drive, seconds=300)
    job = Job(p.name, p.command(), ordinary.peak, p.figures, cwd=p.dir, drive=p.drive, huge=True)
    return job, p.figures(ordinary.out)["same"]


def bare_run(job, share):
    """The same, paged by the least that can do it in fault mode `thread` (bare_preload.c), with as many frames and no limit.
    Its allocator keeps what it has: the pager knows no addresses that were given back."""
    env = dict(LD_PRELOAD=BARE, BARE_LOCAL=str(job.set_bytes * share // 100),
               MALLOC_CONF="dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:never")
    return job.figures(x.run_in(None, job.argv, env=env, **job.how)[0])


def runs_of(a, job, same, floor):
    """{(side, share): [figures]}; the ordinary runs are ("local", 100). All in turn. floor: with the side "bare"."""
    runs = {("local", 100): []}
    for _ in range(ROUNDS):
        runs["local", 100].append(a.local(job))
        for share in SHARES:
            if floor:
                runs.setdefault(("bare", share), []).append(bare_run(job, share))
            for side in a.sides():
                got = a.run(side, job, share)
                if got and got["same"] != same:
                    raise Broken(f"{job.name} on {side} at {share} %: {got['same']!r} instead of {same!r}")
                runs.setdefault((side, share), [])
                if got:
                    runs[side, share].append(got)
    return runs


def slowdown(runs, side, share, cost):
    return median([cost(r) for r in runs[side, share]]) / median([cost(r) for r in runs["local", 100]])


def part_line(a, name, runs, cost, limit, unit):
    """The part above 1.0 against zram's; one line a share. cost(figures): what grows when it is slower."""
    lines = []
    for share in SHARES:
        if not runs["xmem", share]:
            lines.append(info(f"{name} at {share} % local: every run was killed", 0, ""))
            continue
        ours = slowdown(runs, "xmem", share, cost)
        note = f"everything local {digits(unit[1](median([cost(r) for r in runs['local', 100]])))} {unit[0]}; slowdown xmem {ours:.2f}"
        if not runs.get(("zram", share)):
            why = a.no_zram or "every run on zram was killed"
            lines.append(info(f"{name} at {share} % local: slowdown, not compared", ours, "x", floor=f"{note}; {why}"))
            continue
        theirs = slowdown(runs, "zram", share, cost)
        if ("bare", share) in runs:
            least = slowdown(runs, "bare", share, cost)
            note += f", the least pager of mode thread {least:.2f} ({digits((least - 1) / max(theirs - 1, 0.01))} x zram's)"
        goal = f"{name} at {share} % local: slowdown above 1.0 <= {limit} x zram's"
        lines.append(result(goal, [(ours - 1) / max(theirs - 1, 0.01)], limit, floor=f"{note}, zram {theirs:.2f}",
                            program=name, share=share, slowdown={"xmem": ours, "zram": theirs},
                            rounds_of={f"{side} {s}": [cost(r) for r in rs] for (side, s), rs in runs.items()}))
    return lines


def app_row(kind, limit):
    a = arena()
    a.killed()
    job, same = prepared(kind)
    runs = runs_of(a, job, same, kind is Redis)
    name = kind.name.split("_")[1]
    if kind is Redis:
        words = {"get": "redis GET uniform", "mixed": "redis half SET", "zipf": "redis GET zipf"}
        lines = [line for load in Redis.loads for line in
                 part_line(a, words[load], runs, lambda r, load=load: 1 / r[load]["per_s"], limit, ("requests/s", lambda c: 1 / c))]
    elif kind is Numpy:
        lines = part_line(a, name, runs, lambda r: r["fill"] + r["stream"] + r["sort"], limit, ("s", float))
        for line in lines:
            parts = "; ".join(f"{what} " + ", ".join(
                f"{side} {slowdown(runs, side, line['share'], lambda r, w=what: r[w]):.2f}" for side in a.sides())
                for what in ("fill", "stream", "sort") if "share" in line)
            line["floor"] += f"; {parts}" if parts else ""
    else:
        lines = part_line(a, name, runs, lambda r: r["wall_s"], limit, ("s", float))
    lines[-1]["floor"] = lines[-1].get("floor", "") + f"; set {job.set_bytes // MIB} MiB" + a.killed()
    return lines


ROWS = {
    "app_sqlite": lambda: app_row(Sqlite, 0.8),
    "app_redis": lambda: app_row(Redis, 0.8),
    "app_numpy": lambda: app_row(Numpy, 0.4),
    "app_sort": lambda: app_row(Sort, 0.4),
}
