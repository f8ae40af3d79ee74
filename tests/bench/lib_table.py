# SPDX-License-Identifier: Apache-2.0
"""What becomes of figures: the table, JSON, the record of past runs, the page of plots."""
import json
import os
import platform
import subprocess
import textwrap
import time

from lib_bench import SMALL, digits

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"  # Debian's, for which tools/setup installs


def commit():
    """What is measured, as git names it; empty outside of a clone."""
    try:
        got = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return ""
    return got.stdout.decode().strip()


def machine():
    model = "?"
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "?")
    return dict(kernel=platform.release(), cpus=os.cpu_count(), cpu=model, load=os.getloadavg()[0], commit=commit(),
                when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), small=SMALL)


class History:
    """One line of JSON a figure, appended; a figure is known again by its row and goal, and compared only with figures of
    the same kind of run on the same kind of machine."""

    def __init__(self, path, where):
        self.path, self.where, self.latest = path, where, {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                for text in f:
                    self._learn(text)

    def _learn(self, text):
        try:
            e = json.loads(text)
            if all(e[k] == self.where[k] for k in ("cpu", "cpus", "small")):
                self.latest[e["row"], e["goal"]] = e
        except (ValueError, KeyError, TypeError):
            pass  # a line that was cut off when a run was killed

    def last(self, line):
        return self.latest.get((line["row"], line["goal"]))

    def append(self, line):
        entry = dict(self.where, **{k: line[k] for k in ("row", "goal", "value", "unit", "met")})
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(entry) + "\n")


def show(line, last):
    verdict = {True: "met", False: "MISSED", None: ""}[line["met"]]
    value = f"{digits(line['value'])} {line['unit']}".strip()
    before = f"  (last {digits(last['value'])}, {last['when'][:10]} {last['commit']})" if last else ""
    print(f"{line['row']:<13} {line['goal']:<76} {value:>12}  {verdict:<6}{before}".rstrip())
    for text in textwrap.wrap(line.get("floor", ""), 112, break_on_hyphens=False):
        print(f"{'':<15} {text}")


def write_json(path, where, lines):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(dict(machine=where, lines=lines), f, indent=1)


def draw(out_dir):
    """Draws what is in out_dir, of this run or earlier ones; a line that says where, or why not."""
    path = os.path.join(out_dir, "plots.svg")
    try:
        got = subprocess.run([PYTHON, os.path.join(HERE, "plots.py"), out_dir, path], stderr=subprocess.PIPE, check=False)
    except OSError as e:
        return f"no plots: {e}"
    if got.returncode:
        return "no plots: " + got.stderr.decode(errors="replace").strip().split("\n")[-1]
    return f"plots in {os.path.relpath(path)}" if os.path.exists(path) else "no plots: no figures for them yet (rows swap_*)"
