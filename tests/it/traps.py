#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 300 s
# time limit, all: 1200 s
"""Every row of the table of traps: the programs traps, traps_io, traps_proc and traps_signal run as ordinary programs and
under xmem-run, in both fault modes, over shm and tcp and with kernel features masked, in mode signal by an ordinary user too;
a static and a setuid child of a covered shell; the charge of an appliance's pages. XMEM_TRAPS=ROW,... for some rows only."""
import os
import shutil
import subprocess

import lib_xmem as x

BUDGET = 8 * x.MIB
PRESS = 16  # MiB that are walked over so that the rest is away
PROGRAMS = ("traps", "traps_io", "traps_proc", "traps_signal")
MASKS = ("", "move", "poison", "madvise_vec")
# every link with every mask; in `check` each link and each mask at least once: (fault mode, link, mask, ordinary user)
PAIRS = [("thread", "shm", "", False), ("thread", "tcp", "move", False), ("thread", "tcp", "poison", False),
         ("thread", "shm", "madvise_vec", False), ("signal", "shm", "", False), ("signal", "private", "", True), ("signal", "tcp", "move", False)]
ROWS = [r for r in os.environ.get("XMEM_TRAPS", "").split(",") if r]

CHARGE = """
import os
data = [os.urandom(1 << 20) for i in range(192)]
print(sum(len(set(d[::4096])) > 1 for d in data))
"""


def compare(name, plain, fault, link, mask, user, app):
    environment = {"TRAPS_PRESS": str(PRESS), "TRAPS_DIR": scratch(user), "TRAPS_SECONDS": "2", "TRAPS_FAULT": fault}
    if "move" in mask.split(","):
        environment["TRAPS_NO_MOVE"] = "1"
    options = ["--min-map", "64K", "--fault", fault] + (["--mask", mask] if mask else [])
    options += ["--appliance", app.uri[link]] if link != "private" else []
    what = f"{name}, {fault}, over {link}" + (f" without {mask}" if mask else "") + (" by nobody" if user else "")
    try:
        r = x.run_xmem([x.path_of("tests/it/" + name), *ROWS], BUDGET, options, env=environment, cwd=scratch(user),
                       user=user, seconds=280)
        x.check(r.out == plain.out, f"other output: {r.out.decode(errors='replace')}")
        t = r.stats["family"]["total"]
        if not ROWS:
            x.check(t["evicted_pages"] > 10000 and t["fetched_pages"] > 5000,
                    f"only {t['evicted_pages']} pages evicted, {t['fetched_pages']} fetched")
        x.check(t["faults_lost"] == 0, f"{t['faults_lost']} faults were lost")
        by_signal = t["faults_by_signal"] > 0
        x.check(by_signal == (fault == "signal") and (t["message_reads"] > 0) == (fault == "thread"),
                f"not in mode {fault}: {t['faults_by_signal']} faults by signal, {t['message_reads']} messages read")
        app.wait_empty(20)
        x.say(f"{what}: {r.seconds:.1f} s, {t['evicted_pages']} pages evicted, {t['fetched_pages']} fetched")
    except x.Failed as e:
        x.failures.append(f"{what}: {e}")
        x.say(f"FAILED: {what}")


def scratch(user):
    """A directory for the program's files, which an ordinary user can write to."""
    path = os.path.join(x.work, "nobody" if user else "root")
    if not os.path.isdir(path):
        os.mkdir(path)
        os.chmod(path, 0o777)
    return path


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
    pairs = PAIRS if x.LEVEL == "check" else [(f, l, m, False) for f in ("thread", "signal") for l in ("shm", "tcp")
                                             for m in MASKS] + [("signal", "private", m, True) for m in MASKS]
    for fault, link, mask, user in pairs:
        for name in PROGRAMS:
            compare(name, plain[name], fault, link, mask, user, app)
    for extra in () if ROWS else (uncovered_children, charge):
        try:
            extra(app)
        except x.Failed as e:
            x.failures.append(str(e))
    x.finish()


if __name__ == "__main__":
    x.run_main(main)
