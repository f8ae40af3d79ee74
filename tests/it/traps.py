#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 300 s
# time limit, all: 1200 s
"""Every row of the table of traps that exists in fault mode `thread`: the programs traps, traps_io and traps_proc run
as ordinary programs and under xmem-run, over shm and tcp and with kernel features masked; a static and a setuid child
of a covered shell; the charge of an appliance's pages. XMEM_TRAPS=ROW,... for some rows only."""
import os
import shutil
import subprocess

import lib_xmem as x

BUDGET = 8 * x.MIB
PRESS = 16  # MiB that are walked over so that the rest is away
PROGRAMS = ("traps", "traps_io", "traps_proc")
MASKS = ("", "move", "poison", "madvise_vec")
# every link with every mask; in `check` each link and each mask at least once
PAIRS = [("shm", ""), ("tcp", "move"), ("tcp", "poison"), ("shm", "madvise_vec")]
ROWS = [r for r in os.environ.get("XMEM_TRAPS", "").split(",") if r]

CHARGE = """
import os
data = [os.urandom(1 << 20) for i in range(192)]
print(sum(len(set(d[::4096])) > 1 for d in data))
"""


def compare(name, plain, link, mask, app):
    environment = {"TRAPS_PRESS": str(PRESS), "TRAPS_DIR": x.work, "TRAPS_SECONDS": "2"}
    if "move" in mask.split(","):
        environment["TRAPS_NO_MOVE"] = "1"
    options = ["--min-map", "64K", "--appliance", app.uri[link]] + (["--mask", mask] if mask else [])
    what = f"{name} over {link}" + (f" without {mask}" if mask else "")
    try:
        r = x.run_xmem([x.path_of("tests/it/" + name), *ROWS], BUDGET, options, env=environment, cwd=x.work,
                       seconds=280)
        x.check(r.out == plain.out, f"other output: {r.out.decode(errors='replace')}")
        t = r.stats["family"]["total"]
        if not ROWS:
            x.check(t["evicted_pages"] > 10000 and t["fetched_pages"] > 5000,
                    f"only {t['evicted_pages']} pages evicted, {t['fetched_pages']} fetched")
        x.check(t["faults_lost"] == 0, f"{t['faults_lost']} faults were lost")
        app.wait_empty(20)
        x.say(f"{what}: {r.seconds:.1f} s, {t['evicted_pages']} pages evicted, {t['fetched_pages']} fetched")
    except x.Failed as e:
        x.failures.append(f"{what}: {e}")
        x.say(f"FAILED: {what}")


def uncovered_children(app):
    """A static and a setuid program, started by a covered shell, run as ever, and so does the shell."""
    source, static, suid = (os.path.join(x.work, n) for n in ("s.c", "static", "suid"))
    with open(source, "w") as f:
        f.write("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
                "int main(int c, char **v) { char *p = malloc(32 << 20); memset(p, c, 32 << 20);\n"
                "printf(\"%s %d %d\\n\", v[1], p[12345678], (int)geteuid()); return c; }\n")
    script = "x=$(seq 200000 | tail -n 1); echo $x; for p do $p arg; echo $?; done; echo after $x"
    programs = []
    if subprocess.run(["gcc", "-static", "-o", static, source], stderr=subprocess.DEVNULL).returncode == 0:
        programs.append(static)
    else:
        x.say("no static C library: a static child is left out")
    if os.geteuid() == 0 and subprocess.run(["gcc", "-o", suid, source]).returncode == 0:
        shutil.chown(suid, "nobody")
        os.chmod(suid, 0o4755)
        programs.append(suid)
    else:
        x.say("not root: a setuid child is left out")
    argv = ["bash", "-c", script, "bash", *programs]
    plain = x.run_plain(argv)
    r = x.run_xmem(argv, BUDGET, ["--appliance", app.uri["shm"]])
    x.check(r.out == plain.out, f"uncovered children: {r.out!r} and not {plain.out!r}")
    x.say("uncovered children: as in an ordinary run")


def charge(app):
    """Pages that an appliance lends are its own: a client in a small memory cgroup fills far more of them."""
    plain = x.run_plain(["/usr/bin/python3", "-c", CHARGE])
    if not x.Cgroup.make():
        x.say("no memory cgroup can be made here: the charge is left out")
        return
    limit = BUDGET + 64 * x.MIB + 48 * x.MIB  # the interpreter's own memory among it
    r = x.run_xmem(["/usr/bin/python3", "-c", CHARGE], BUDGET, ["--appliance", app.uri["shm"]], limit=limit)
    x.check(r.out == plain.out, f"charge: output {r.out!r}")
    x.check(r.stats["family"]["total"]["written_bytes"] > 160 * x.MIB, "charge: too little went to the appliance")
    x.say(f"charge: {r.stats['family']['total']['written_bytes'] // x.MIB} MiB written by a client that may have "
          f"{limit // x.MIB}")


def main():
    x.init()
    app = x.Appliance()
    plain = {}
    for name in PROGRAMS:
        plain[name] = x.run_plain([x.path_of("tests/it/" + name), *ROWS], cwd=x.work, seconds=200,
                                  env={"TRAPS_DIR": x.work, "TRAPS_SECONDS": "1"})
        x.say(plain[name].out.decode().strip())
    pairs = PAIRS if x.LEVEL == "check" else [(l, m) for l in ("shm", "tcp") for m in MASKS]
    for link, mask in pairs:
        for name in PROGRAMS:
            compare(name, plain[name], link, mask, app)
    for extra in () if ROWS else (uncovered_children, charge):
        try:
            extra(app)
        except x.Failed as e:
            x.failures.append(str(e))
    x.finish()


if __name__ == "__main__":
    x.run_main(main)
