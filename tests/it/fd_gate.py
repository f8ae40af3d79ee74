#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 120 s
"""Numbers that a program overwrites or closes although they are not open are its own, also while threads of the runtime
connect anew all the time (each connection that ends is a socket that is opened), in a child of fork too."""
import os
import random

import lib_xmem as x

ROUNDS = int(os.environ.get("ROUNDS", "1" if x.LEVEL == "check" else "20"))


def main():
    x.init()
    app = x.Appliance()
    program = x.path_of("tests/it/fd_gate")
    seed = random.SystemRandom().randrange(1 << 30)
    x.say(f"seed {seed}")
    x.run_plain([program, "16", str(seed)], cwd=x.work)
    for i in range(ROUNDS):
        for link, lost in (("tcp", 0.01), ("tcp", 0.05), ("shm", 0.01)):
            options = ["--min-map", "64K", "--appliance", app.uri[link], "--inject", f"seed={seed + i},disconnect={lost}"]
            what = f"over {link}, {lost} of the operations end the connection, seed {seed + i}"
            try:
                r = x.run_xmem([program, "16", str(seed + i)], 4 * x.MIB, options, cwd=x.work)
                again = r.stats["family"]["total"]["link_reconnects"]
                x.check(again > 50, f"only {again} connections were made anew")
                x.say(f"{what}: {r.seconds:.1f} s, {again} connections")
            except x.Failed as e:
                x.failures.append(f"{what}: {e}")
                x.say(f"FAILED: {what}")
    x.finish()


if __name__ == "__main__":
    x.run_main(main)
