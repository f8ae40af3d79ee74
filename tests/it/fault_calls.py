#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 120 s
"""fault_calls.py: the system calls that faults cost, seen from outside by strace, while one thread touches pages that are on
an appliance (shm), each alone, in random order, with room for all of them: those of the handler threads, and in fault mode
signal those of the thread itself.

For each fault at most one read of a message that there was, one install, and nothing else: no read of a message that
there was not, no call to wait. One install of 256 is timed, with a wake-up of its own (fault_time.c); that, and starting
and ending, is what the 2 in 100 are for. In mode signal one install and the return from the signal, three calls at most, and
no voluntary context switch (counted without strace, which makes some). Printed: what a fault costs, by kind of call."""
import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PAGES = 4096
SLACK = 0.02
PROGRAM = """
import mmap, os, random, resource, sys
switches = 0
n, seed = int(sys.argv[1]), int(sys.argv[2])
m = mmap.mmap(-1, n * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(n):
    m[i * 4096:i * 4096 + 8] = b"%08d" % i
order = list(range(n))
random.Random(seed).shuffle(order)
for run in range(2):
    m.madvise(21)  # MADV_PAGEOUT
    print(os.getpid(), switches, flush=True)
    sys.stdin.readline()
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    for i in order:
        if m[i * 4096:i * 4096 + 8] != b"%08d" % i:
            sys.exit(f"page {i} has {m[i * 4096:i * 4096 + 8]}")
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - switches
print("done", flush=True)
sys.stdin.readline()  # strace lets go first: it waits for ever for a process that ends meanwhile
"""
LINE = re.compile(r"^(\d+)<([^>]*)>\s+(?:<\.\.\. )?(\w+)(?:\((.*)| resumed>(.*))$")


def kind(call, args):
    if call == "read" and "userfaultfd" in args:
        return "read, nothing there" if "EAGAIN" in args else "read"
    if call == "ioctl" and (what := re.search(r"UFFDIO_(\w+)", args)):
        return "install" if what[1] in ("COPY", "ZEROPAGE") else what[1]
    return call


def count(trace, ours):
    """Calls by kind of the threads that ours(pid, name) is true for; one that strace shows in two pieces is judged by both
    together."""
    calls, begun = collections.Counter(), {}
    with open(trace, encoding="latin1") as f:
        for line in f:
            m = LINE.match(line)
            if not m or not ours(m[1], m[2]):
                continue
            if m[4] is not None and "<unfinished" in m[4]:
                begun[m[1]] = m[4]
            else:
                calls[kind(m[3], m[4] if m[4] is not None else begun.pop(m[1], "") + m[5])] += 1
    return calls


def wait_for(path, text):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with open(path, encoding="utf-8") as f:
            if text in f.read():
                return
        time.sleep(0.02)
    sys.exit(f"strace did not say '{text}'")


def measure(mode, seed):
    """(calls by kind, voluntary context switches of the round without strace)"""
    build = os.environ.get("XMEM_BUILD", "build/release")
    with tempfile.TemporaryDirectory() as tmp:
        argv = [os.path.join(build, "xmem-run"), "--fault", mode, "--local", "128M", "--prefetch", "none", "--", sys.executable,
                "-c", PROGRAM, str(PAGES), str(seed)]
        run = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not run.stdout.readline():
            sys.exit(f"the program did not start: exit status {run.wait(60)}")
        print(file=run.stdin, flush=True)  # the first time round: links are opened
        pid, switches = run.stdout.readline().split()
        with open(f"{tmp}/err", "w", encoding="utf-8") as err:
            strace = subprocess.Popen(["strace", "-f", "-x", "-yy", "-s", "4", "--decode-pids=comm", "-o", f"{tmp}/trace", "-p",
                                       pid], stderr=err)
        wait_for(f"{tmp}/err", "attached")
        print(file=run.stdin, flush=True)
        ended = run.stdout.readline().strip()
        strace.send_signal(signal.SIGINT)
        strace.wait(30)
        run.stdin.close()
        if ended != "done" or run.wait(30) != 0:
            sys.exit(f"the program ended with {run.wait()} and said '{ended}'")
        own = (lambda tid, name: tid == pid) if mode == "signal" else (lambda tid, name: name == "xmem-fault")
        return count(f"{tmp}/trace", own), int(switches)


def complaints(mode, calls, switches):
    most = PAGES * (1 + SLACK)
    yield calls["install"] < PAGES * (1 - SLACK), f"only {calls['install']} installs were seen"
    yield calls["install"] > most, f"{calls['install']} installs"
    if mode == "signal":
        yield sum(calls.values()) > 3 * most, f"{sum(calls.values()) / PAGES:.3f} calls a fault"
        yield switches > PAGES * SLACK, f"{switches} voluntary context switches"
        return
    other = sum(calls.values()) - calls["read"] - calls["install"]
    yield calls["read"] > most, f"{calls['read']} messages were read"
    yield other > PAGES * SLACK, f"{other} other calls: {other / PAGES:.3f} a fault"


def main():
    if not shutil.which("strace"):
        print("strace is not installed (tools/setup)")
        sys.exit(77)
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print(f"seed {seed}")
    bad = []
    for mode in ("thread", "signal"):
        calls, switches = measure(mode, seed)
        print(f"{mode}: {PAGES} faults, {switches} context switches of the thread; a fault costs " +
              ", ".join(f"{n / PAGES:.3f} {k}" for k, n in calls.most_common()))
        bad += [f"{mode}: {text}" for wrong, text in complaints(mode, calls, switches) if wrong]
    for text in bad:
        print("FAILED: " + text)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
