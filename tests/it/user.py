#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 300 s
# time limit, all: 1200 s
"""The real programs as an ordinary user: no capability, hence no fork event, and a /dev/userfaultfd that is the
test's own in a private mount namespace. Some of them at level check, all at level all.

    tests/it/user.py [PROGRAM]...
"""
import sys

import lib_programs
import lib_xmem as x
import programs

SOME = ["python", "redis", "gcc", "pipeline", "fio-libaio"]


def check_is_ordinary():
    """The set-up itself: the program is nobody, cannot use the fork event, and the machine's node is untouched."""
    out = x.run_plain(["/bin/sh", "-c", "id -u; grep CapEff /proc/self/status; stat -c %a /dev/userfaultfd"], user=True).out
    uid, caps, mode = out.decode().split("\n")[:3]
    x.check(uid == str(x.NOBODY) and caps.split()[1].strip("0") == "" and mode == "666", f"not an ordinary user: {out!r}")
    mode = x.os.stat("/dev/userfaultfd").st_mode & 0o777
    x.say(f"nobody with a node of its own; the machine's has mode {mode:o}")


def main():
    x.init()
    why = x.user_possible()
    if why:
        x.skip(why)
    names = sys.argv[1:] or ([p.name for p in lib_programs.ALL] if x.LEVEL == "all" else SOME)
    app = x.Appliance(user=x.NOBODY)
    check_is_ordinary()
    for n, cls in enumerate(p for p in lib_programs.ALL if p.name in names):
        cls.user = True
        link = "tcp" if n % 2 else "shm"
        rows = [(cls.name, k, "s3fifo", "majority", "none") for k in (["shm", "tcp"] if x.LEVEL == "all" else [link])]
        programs.run_program(cls, rows, {True: app})
    x.finish()


if __name__ == "__main__":
    main()
