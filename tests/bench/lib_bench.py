# SPDX-License-Identifier: Apache-2.0
"""What the rows of the bench share: programs, figures, lines of the table."""
import json
import os
import statistics
import subprocess
import tempfile

SMALL = bool(os.environ.get("XMEM_BENCH_SMALL"))
ROUNDS = 1 if SMALL else 5
LIMIT_S = 120  # of one program
build = os.path.abspath(os.environ.get("XMEM_BUILD", "build/release"))
out_dir = os.environ.get("XMEM_BENCH_OUT", os.path.join(os.path.dirname(build), "bench-small" if SMALL else "bench"))
ACCESS = os.path.join(build, "tests/bench/access")
FLOOR = os.path.join(build, "tests/bench/floor")
XMEM_RUN = os.path.join(build, "xmem-run")
FAULT = os.environ.get("XMEM_TEST_FAULT", "thread")
tmp = tempfile.TemporaryDirectory(prefix="xmem-bench-")


class Broken(Exception):
    """A program failed, or what it read was wrong."""


class Missing(Exception):
    """Something that the row needs is not here."""


def command(argv, env=None):
    """Standard output of a program that must succeed."""
    got = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, timeout=LIMIT_S, check=False)
    if got.returncode != 0:
        text = (got.stdout + got.stderr).decode(errors="replace").strip()
        raise Broken(f"{' '.join(argv)}: exit status {got.returncode}: {text[-300:]}")
    return got.stdout


def floor(part, *args):
    return json.loads(command([FLOOR, part, *args]))


def plain(pattern, *args, preload=None):
    env = dict(os.environ)
    if preload:
        env["LD_PRELOAD"] = preload
    return json.loads(command([ACCESS, pattern, *args], env))


def covered(pattern, *args, local="64M", options=(), prefix=()):
    """The same program under xmem-run."""
    return json.loads(command([*prefix, XMEM_RUN, "--fault", FAULT, "--local", local, *options, "--", ACCESS, pattern, *args]))


def median(values):
    return statistics.median(values)


def digits(x):
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def result(goal, figures, limit, unit="x", best=min, **more):
    """One line of the table. figures: one a round; limit: the goal as a number; best=min: at most, max: at least."""
    value = median(figures)
    met = value <= limit if best is min else value >= limit
    return dict(goal=goal, value=value, unit=unit, met=met, rounds=figures, **more)


def info(what, value, unit, **more):
    return dict(goal="none: " + what, value=value, unit=unit, met=None, **more)
