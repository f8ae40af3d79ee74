#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# time limit: 600 s
"""model.py: tests/model/page.pml is checked by spin, exhaustively, in both parts; and each mistake that can be built into
it (-DBUG=n) is found, or the model would show nothing. As many searches at a time as there are processors."""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

MODEL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "model", "page.pml")
MISTAKES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 1, 6: 2, 7: 1, 8: 1, 9: 1, 10: 1}  # which part finds it
MEMORY_MIB = 3000
DEPTH = 2000000


def search(part, bug):
    """What the verifier says of the states it went through."""
    with tempfile.TemporaryDirectory(prefix="xmem-model-") as d:
        def run(*argv):
            return subprocess.run(argv, cwd=d, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        shutil.copy(MODEL, d)
        made = run("spin", f"-DPART={part}", f"-DBUG={bug}", "-a", "page.pml")
        built = run("gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MIB}", "-o", "pan", "pan.c")
        if made.returncode or built.returncode:
            sys.exit(f"part {part} cannot be built: {made.stdout}{built.stdout}")
        return run("./pan", f"-m{DEPTH}").stdout


def main():
    if not shutil.which("spin"):
        print("spin is not installed (tools/setup test)")
        sys.exit(77)
    failed = 0
    jobs = [(1, 0), (2, 0), *((part, bug) for bug, part in MISTAKES.items())]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(jobs, pool.map(lambda job: search(*job), jobs)))
    for part in (1, 2):
        said = results[part, 0]
        whole = "errors: 0" in said and not re.search("max search depth|out of memory|not completed", said)
        states = re.search(r"(\d+) states, stored", said)
        print(f"part {part}: {'all' if whole else 'FAILED, of'} {states and states[1]} states")
        if not whole:
            print(said)
        failed += not whole
    for bug, part in MISTAKES.items():
        said = results[part, bug]
        why = re.search(r"assertion violated (.*?) \(at depth", said)
        print(f"mistake {bug}: {'found: ' + why[1] if why else 'FAILED: not found'}")
        failed += not why
    sys.exit(1 if failed else 0)


main()
