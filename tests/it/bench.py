#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 240 s
"""Rows of the bench that compare with swap to zram, in their small form: that they run, that table, JSON and record say the
same, that a zram device is gone afterwards, also when the bench was killed. How fast anything is is not looked at."""
import json
import os
import signal
import statistics
import subprocess
import time

import lib_xmem as x

BENCH = os.path.join(x.ROOT, "tests/bench/run")
ROWS = ("swap_randread swap_randrw swap_seqread swap_seqwrite swap_zipf swap_strided swap_chase evict policies matrix "
        "app_sqlite app_redis app_numpy app_sort").split()


def devices():
    return sorted(n for n in os.listdir("/sys/block") if n.startswith("zram"))


def bench(out, rows, **env):
    """Lines that it printed."""
    got = subprocess.run(["/usr/bin/python3", BENCH, *rows], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                         env=dict(os.environ, XMEM_BENCH_SMALL="1", XMEM_BENCH_OUT=out, XMEM_BUILD=x.BUILD, **env))
    text = got.stdout.decode(errors="replace")
    x.say(text)
    x.check(got.returncode == 0, f"exit status {got.returncode}")
    return text.split("\n")


def check_row(out, row, said):
    """What is in its JSON agrees with itself, and is in the table."""
    with open(os.path.join(out, row + ".json"), encoding="utf-8") as f:
        lines = json.load(f)["lines"]
    x.check(lines, f"{row}: no figures")
    for ln in lines:
        x.check(any(s.startswith(row + " ") and ln["goal"] in s for s in said), f"{row}: not in the table: {ln['goal']}")
        if ln["met"] is not None:
            limit = float(ln["goal"].rsplit("=", 1)[1].split()[0])
            x.check(ln["value"] == statistics.median(ln["rounds"]), f"{row}: the figure is not the median: {ln}")
            x.check(ln["met"] == (ln["value"] >= limit if ">=" in ln["goal"] else ln["value"] <= limit), f"{row}: {ln}")
        for side, runs in ln.get("parts", {}).items():
            x.check(all(r["errors"] == 0 and r["access_us"]["p50"] <= r["access_us"]["max"] for r in runs), f"{row}, {side}")
    return lines


def check_sides(lines):
    """The limit was felt on both sides, and data compressed as it is meant to."""
    for ln in lines:
        for run in ln.get("parts", {}).get("xmem", []):
            x.check(run["stats"]["evicted_pages"] > 0 and run["moved_bytes"] > 0, f"nothing was evicted: {ln['goal']}")
        for run in ln.get("parts", {}).get("zram", []):
            x.check(run["moved_bytes"] > 0, f"nothing was swapped: {ln['goal']}")
            low, high = (2.3, 3.7) if ln.get("data") == "compressible" else (0.9, 1.1)
            x.check(not run["compressed"] or low < run["compressed"] < high, f"{run['compressed']}:1 on zram: {ln['goal']}")


def check_without_zram(out):
    """mkswap is not found: one line says so, the row goes on, and last time's figure is beside the one of row evict."""
    said = bench(out, ["evict", "swap_zipf"], PATH=x.work)
    with open(os.path.join(out, "swap_zipf.json"), encoding="utf-8") as f:
        ln = json.load(f)["lines"][0]
    x.check("not compared:" in ln["floor"] and ln["met"] is None and ln["value"] > 0, f"without zram: {ln}")
    x.check(any(s.startswith("evict ") and "(last " in s for s in said), "no last figure in the table")


def check_killed(out, before):
    if not os.path.isdir("/sys/class/zram-control"):
        x.say("killed: not tried, no zram device can be made here")
        return
    p = subprocess.Popen(["/usr/bin/python3", BENCH, "swap_randread"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         env=dict(os.environ, XMEM_BENCH_OUT=out, XMEM_BUILD=x.BUILD))
    x.at_exit(p.kill)
    end = time.monotonic() + 30
    while devices() == before:
        x.check(time.monotonic() < end and p.poll() is None, "the bench made no zram device in 30 s")
        time.sleep(0.01)
    p.send_signal(signal.SIGKILL)
    p.wait()
    end = time.monotonic() + 30
    while devices() != before:
        x.check(time.monotonic() < end, f"30 s after the bench was killed there is {devices()}, before there was {before}")
        time.sleep(0.01)
    x.say("killed: the device is gone")


def main():
    x.init(need=("redis-server", "sqlite3"))
    group = x.Cgroup.make()
    if not group:
        x.skip("no memory cgroup can be made here")
    group.remove()
    out, before = os.path.join(x.work, "out"), devices()
    said = bench(out, ROWS)
    lines = [ln for row in ROWS for ln in check_row(out, row, said)]
    check_sides(lines)
    with open(os.path.join(out, "history.jsonl"), encoding="utf-8") as f:
        x.check(len(f.readlines()) == len(lines), "the record has another number of lines than the table")
    x.check(devices() == before, f"zram devices: {devices()}, before {before}")
    check_without_zram(out)
    x.check(devices() == before, f"zram devices without mkswap: {devices()}, before {before}")
    check_killed(out, before)


if __name__ == "__main__":
    x.run_main(main)
