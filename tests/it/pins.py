#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 240 s
# time limit, all: 1200 s
"""Pages that the kernel holds for direct I/O must not be taken away, whatever the pressure: fio writes and verifies
through buffers that are many times the budget, with several jobs at once, by libaio and io_uring, with buffers from
malloc and from mmap, as threads and as processes. crc32c of every block tells."""
import itertools
import sys

import lib_programs
import lib_xmem as x

RUNS = list(itertools.product(["libaio", "io_uring"], ["malloc", "mmap"], ["--thread", "processes"], ["4k", "256k"]))


def command(p, engine, memory, jobs, block):
    depth = 4096 if block == "4k" else 128  # 16 or 32 MiB a job
    argv = ["fio", "--name=t", f"--ioengine={engine}", "--direct=1", "--rw=randrw", f"--bs={block}",
            f"--iodepth={depth}", "--size=48M" if block == "4k" else "--size=128M", "--numjobs=3",
            "--verify=crc32c", "--verify_fatal=1",
            f"--mem={memory}", f"--randseed={lib_programs.SEED}", f"--directory={p.dir}", "--filename_format=t.$jobnum",
            "--output-format=terse", "--group_reporting"]
    return argv + (["--thread"] if jobs == "--thread" else [])


def run(p, app, row):
    engine, memory, jobs, block = row
    budget = 8 * x.MIB if block == "4k" else 16 * x.MIB
    argv = command(p, *row)
    before = app.stat()
    r = x.run_xmem(argv, budget, ["--appliance", app.uri["shm"]], cwd=p.dir, seconds=150)
    t = r.stats["family"]["total"]
    p.result(r.out)
    x.check(t["written_bytes"] >= 16 * x.MIB, f"only {t['written_bytes'] // x.MIB} MiB were evicted: no pressure")
    x.check(t["faults_lost"] == 0 and t["checksum_errors"] == 0, "pages were lost")
    x.check(app.stat()["refused"] == before["refused"], "the appliance refused something")
    app.wait_empty(5)
    x.say(f"ok {' '.join(row)}: {r.seconds:.1f} s, {t['evicted_pages']} pages evicted, {t['evict_refused_pages']} held "
          "by the kernel or in use at that moment")
    return t["evict_refused_pages"]


def main():
    x.init(["fio"])
    p = lib_programs.FioAio()
    app = x.Appliance()
    x.say(f"{p.version_text()}; seed {lib_programs.SEED} (XMEM_SEED)")
    rows = RUNS if x.LEVEL == "all" else [r for r in RUNS if (r[1] == "mmap") == (r[2] == "--thread")]
    held = 0
    for row in rows:
        try:
            held += run(p, app, row)
        except x.Failed as e:
            x.failures.append(f"{' '.join(row)}: {e}")
            x.say(f"FAILED {' '.join(row)}: {e}")
        for f in x.os.listdir(p.dir):
            x.os.unlink(p.file(f))
    if not held and not x.failures:
        x.failures.append("no page was ever held: this tested nothing")
    x.finish()


if __name__ == "__main__":
    main()
