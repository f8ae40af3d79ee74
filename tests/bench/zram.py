#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""zram.py BYTES: makes a zram device of that size, swaps to it before any other, says its name, and takes it away again when
standard input ends: also when whoever asked for it was killed. Zram is that as a class, for the bench."""
import os
import re
import signal
import subprocess
import sys

CONTROL = "/sys/class/zram-control"
FIRST = 32767  # the highest priority that swapon takes


class Impossible(Exception):
    """Why there is no swap to compressed memory here, in one line."""


def put(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(str(text))


def run(*argv):
    got = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if got.returncode:
        raise Impossible(f"{' '.join(argv)}: {got.stderr.decode(errors='replace').strip()}")


def swaps():
    with open("/proc/swaps", encoding="ascii") as f:
        return [line.split()[0] for line in f]


def add(size):
    """Number of a new device that is swapped to."""
    if os.geteuid() != 0:
        raise Impossible("not root: cannot make a zram device")
    if not os.path.exists(CONTROL):
        raise Impossible("this kernel has no zram, or its module is not loaded (modprobe zram)")
    with open(CONTROL + "/hot_add", encoding="ascii") as f:
        number = int(f.read())
    try:
        put(f"/sys/block/zram{number}/disksize", size)
        run("mkswap", f"/dev/zram{number}")
        run("swapon", "-p", str(FIRST), f"/dev/zram{number}")
    except (OSError, Impossible):
        remove(number)
        raise
    return number


def remove(number):
    """Raises OSError or Impossible when something of it stays."""
    if f"/dev/zram{number}" in swaps():
        run("swapoff", f"/dev/zram{number}")
    put(f"/sys/block/zram{number}/reset", 1)
    put(CONTROL + "/hot_remove", number)


def main():
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)  # the end of standard input is what counts
    try:
        number = add(int(sys.argv[1]))
    except (OSError, Impossible) as e:
        print(f"impossible: {e}", flush=True)
        return
    try:
        print(f"zram{number}", flush=True)
        sys.stdin.read()
    except OSError:
        pass  # whoever asked is gone already
    try:
        remove(number)
    except (OSError, Impossible) as e:
        sys.exit(f"zram{number} is still there ({e}); by hand: swapoff /dev/zram{number}; echo {number} >{CONTROL}/hot_remove")


class Zram:
    """The device that a process of its own keeps. Raises Impossible."""

    def __init__(self, size):
        self.keeper = subprocess.Popen(["/usr/bin/python3", __file__, str(size)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, start_new_session=True)
        said = self.keeper.stdout.readline().decode().strip()
        if not re.fullmatch(r"zram\d+", said):
            self.remove()
            raise Impossible(said.removeprefix("impossible: ") or "zram.py failed")
        self.path = "/sys/block/" + said

    def _figures(self, name):
        with open(f"{self.path}/{name}", encoding="ascii") as f:
            return [int(n) for n in f.read().split()]

    def moved_bytes(self):
        """Written to and read from it so far."""
        stat = self._figures("stat")
        return (stat[2] + stat[6]) * 512

    def holds(self):
        """Bytes of pages that it holds now, and into how many they were compressed."""
        return tuple(self._figures("mm_stat")[:2])

    def algorithm(self):
        with open(self.path + "/comp_algorithm", encoding="ascii") as f:
            return re.search(r"\[(.+)\]", f.read()).group(1)

    def remove(self):
        self.keeper.stdin.close()
        self.keeper.wait()


if __name__ == "__main__":
    main()
