#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""plots.py DIR FILE: draws the figures that rows of the bench left in DIR (ROW.json, history.jsonl) on one page, FILE (SVG, or
what its name ends in). Rows that were not measured are left out; nothing is written when there is none."""
import glob
import json
import os
import statistics
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
except ImportError:
    sys.exit("python3-matplotlib is not installed (tools/setup bench)")

COLOUR = {"xmem": "#1f6fb4", "zram": "#e07b1a", "local": "#8a8a8a"}
QUANTILES = ("p50", "p90", "p99", "p999", "max")
COLUMNS = 3


def load(folder):
    rows = {}
    for path in glob.glob(os.path.join(folder, "*.json")):
        name = os.path.basename(path)[:-5]
        if name != "all":
            with open(path, encoding="utf-8") as f:
                rows[name] = json.load(f)
    return rows


def lines_of(rows, prefix):
    return [ln for name in sorted(rows) if name.startswith(prefix) for ln in rows[name]["lines"]]


def rate(run):
    return run["accesses_per_s"] or run["stream_mib_per_s"] * 256


def middle(runs, figure):
    return statistics.median([figure(r) for r in runs])


def compared(lines):
    """Lines of access.c that have both sides, with pattern, threads and runs."""
    return [ln for ln in lines if ln.get("parts") and ln["parts"].get("zram") and ln["parts"].get("xmem")]


def goal_of(line):
    if line["met"] is None:
        return None
    return float(line["goal"].rsplit("=", 1)[1].split()[0])


def plain_log(ax):
    """A logarithmic axis with 0.5, 1, 2, 5, 10 ... written out."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


# ---- panels: each returns a function that draws, or None when its rows are not there ----------------------------------------


def speed(rows):
    found = compared(lines_of(rows, "swap_"))
    if not found:
        return None

    def draw(ax):
        at = range(len(found))
        values = [ln["value"] for ln in found]
        ax.barh(at, [v - 1 for v in values], left=1, color=[COLOUR["xmem"] if v >= 1 else COLOUR["zram"] for v in values], height=0.6)
        for y, ln in zip(at, found):
            goal = goal_of(ln)
            ax.text(max(ln["value"], goal or 1) * 1.06, y, f"{ln['value']:.2f}", va="center", fontsize=8)
            if goal:
                ax.plot([goal, goal], [y - 0.42, y + 0.42], color="black", lw=2)
        ax.axvline(1, color="grey", lw=0.8)
        ax.set_yticks(list(at), [f"{ln['pattern']}, {ln['threads']} thr." for ln in found])
        ax.invert_yaxis()
        plain_log(ax)
        ax.set_xlim(min(0.5, min(values) * 0.8), max(values) * 1.8)
        ax.set_title("Rate as a multiple of zram's (black: goal; 25 % local, incompressible)")
    return draw


def tails(rows, pattern):
    found = [ln for ln in compared(lines_of(rows, "swap_" + pattern)) if ln["threads"] == 1]
    if not found:
        return None
    key = "access_us" if pattern.startswith("seq") else "fault_us"

    def draw(ax):
        for side, runs in found[0]["parts"].items():
            ax.plot(range(len(QUANTILES)), [max(middle(runs, lambda r, q=q: r[key][q]), 0.01) for q in QUANTILES], marker="o",
                    color=COLOUR[side], label=side)
        ax.set_xticks(range(len(QUANTILES)), ["p50", "p90", "p99", "p99.9", "max"])
        ax.set_yscale("log")
        ax.set_ylabel("microseconds")
        ax.grid(axis="y", alpha=0.3)
        ax.legend(frameon=False)
        what = "an access" if key == "access_us" else "an access that faults"
        ax.set_title(f"{pattern}, 1 thread: latency of {what}")
    return draw


def programs(rows):
    found = [ln for ln in lines_of(rows, "app_") if ln.get("slowdown")]
    if not found:
        return None

    def draw(ax):
        for side, shift in (("zram", -0.2), ("xmem", 0.2)):
            values = [ln["slowdown"][side] for ln in found]
            ax.barh([y + shift for y in range(len(found))], [v - 1 for v in values], left=1, height=0.38, color=COLOUR[side], label=side)
            for y, v in enumerate(values):
                ax.text(max(v, 1) * 1.03, y + shift, f"{v:.2f}", va="center", fontsize=8)
        ax.axvline(1, color="grey", lw=0.8)
        ax.set_yticks(range(len(found)), [ln["goal"].split(" local:")[0].replace(" at ", "\n") for ln in found], fontsize=8)
        ax.invert_yaxis()
        plain_log(ax)
        ax.set_xlim(0.8, max(max(ln["slowdown"].values()) for ln in found) * 1.5)
        ax.legend(frameon=False, loc="lower right")
        ax.set_title("Programs: slowdown against everything local")
    return draw


def processor(rows):
    found = [ln for ln in compared(lines_of(rows, "swap_")) if ln["threads"] == 1]
    if not found:
        return None

    def cost(run):
        return (run["user_s"] + run["sys_s"]) * 1e6 / max(run["pages"] or run["faults"], 1)

    def draw(ax):
        for side, shift in (("zram", -0.2), ("xmem", 0.2)):
            ax.bar([i + shift for i in range(len(found))], [middle(ln["parts"][side], cost) for ln in found], width=0.38,
                   color=COLOUR[side], label=side)
        ax.set_xticks(range(len(found)), [ln["pattern"] for ln in found], rotation=30, ha="right")
        ax.set_ylabel("microseconds")
        ax.legend(frameon=False)
        ax.set_title("Processor time a fault (seq*: a page), 1 thread")
    return draw


def heat(rows, data):
    found = [ln for ln in compared(lines_of(rows, "matrix")) if ln["data"] == data]
    if not found:
        return None
    patterns = list(dict.fromkeys(ln["pattern"] for ln in found))
    columns = list(dict.fromkeys((ln["share"], ln["threads"]) for ln in found))

    def draw(ax):
        value = {(ln["pattern"], ln["share"], ln["threads"]): ln["value"] for ln in found}
        table = [[value.get((p, *c), float("nan")) for c in columns] for p in patterns]
        ax.imshow(table, cmap="RdYlBu", norm=matplotlib.colors.LogNorm(0.2, 5), aspect="auto")
        for y, line in enumerate(table):
            for i, v in enumerate(line):
                ax.text(i, y, f"{v:.1f}" if v == v else "killed", ha="center", va="center", fontsize=8,
                        color="white" if v > 3 or v < 0.33 else "black")
        ax.set_xticks(range(len(columns)), [f"{share} %\n{t} thr." for share, t in columns])
        ax.set_yticks(range(len(patterns)), patterns)
        ax.set_title(f"Rate as a multiple of zram's, {data} (blue: xmem is faster)")
    return draw


def policies(rows, option):
    found = [ln for ln in lines_of(rows, "policies") if ln.get("option") == option]
    if not found:
        return None
    names = list(dict.fromkeys(ln["policy"] for ln in found))
    patterns = list(dict.fromkeys(ln["pattern"] for ln in found))

    def draw(ax):
        value = {(ln["policy"], ln["pattern"]): ln["value"] for ln in found}
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            ax.bar([x + (i - (len(names) - 1) / 2) * width for x in range(len(patterns))],
                   [value.get((name, p), 0) / max(value.get((names[0], p), 1), 1) for p in patterns], width=width * 0.95,
                   label=name, color=("#1f6fb4", "#74add1", "#c9c9c9")[i])
        ax.set_xticks(range(len(patterns)), patterns)
        ax.axhline(1, color="grey", lw=0.8)
        ax.legend(frameon=False, ncols=len(names))
        ax.set_ylim(0, ax.get_ylim()[1] * 1.15)
        ax.set_title(f"{option.capitalize()} policies: rate, {names[0]} is 1")
    return draw


def eviction(rows):
    found = [ln for ln in lines_of(rows, "evict") if goal_of(ln) is not None]
    if not found:
        return None

    def draw(ax):
        ax.bar(range(len(found)), [ln["value"] for ln in found], width=0.6, color=COLOUR["xmem"])
        for i, ln in enumerate(found):
            ax.plot([i - 0.4, i + 0.4], [goal_of(ln)] * 2, color="black", lw=2)
            ax.text(i, ln["value"], f"{ln['value']:.2f}", ha="center", va="bottom", fontsize=8)
        ax.set_xticks(range(len(found)), [ln["goal"].split(",")[1].split(":")[0].strip() for ln in found])
        ax.set_ylabel("microseconds")
        ax.set_title("Processor time of evicting a page (black: goal)")
    return draw


def past(folder, rows):
    """Of the lines with a goal in rows swap_*: how figure and goal related, run by run."""
    path = os.path.join(folder, "history.jsonl")
    kept = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for text in f:
                try:
                    e = json.loads(text)
                except ValueError:
                    continue  # cut off when a run was killed
                if e["row"].startswith("swap_") and " >= " in e["goal"] and not e["small"]:
                    kept.setdefault(e["goal"].split(":")[0], []).append((e["when"][:16], e["value"]))
    kept = {k: v for k, v in kept.items() if len(v) > 1}
    if not kept:
        return None

    def draw(ax):
        whens = sorted({w for v in kept.values() for w, _ in v})
        for what, values in kept.items():
            ax.plot([whens.index(w) for w, _ in values], [v for _, v in values], marker="o", ms=3, label=what)
        ax.set_yscale("log")
        ax.axhline(1, color="grey", lw=0.8)
        ax.set_xticks([0, len(whens) - 1], [whens[0], whens[-1]])
        ax.legend(frameon=False, fontsize=7)
        ax.set_title("Past runs: rate as a multiple of zram's")
    return draw


def main():
    folder, target = sys.argv[1:]
    rows = load(folder)
    panels = [speed(rows), programs(rows), processor(rows)]
    panels += [tails(rows, p) for p in ("randread", "randrw", "zipf", "seqread", "seqwrite", "chase")]
    panels += [heat(rows, "incompressible"), heat(rows, "compressible"), eviction(rows)]
    panels += [policies(rows, "evict"), policies(rows, "prefetch"), past(folder, rows)]
    panels = [p for p in panels if p]
    if not panels:
        return
    height = -(-len(panels) // COLUMNS)
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False})
    page, axes = plt.subplots(height, COLUMNS, figsize=(6.4 * COLUMNS, 4.6 * height), squeeze=False)
    for ax in axes.flat[len(panels):]:
        ax.set_visible(False)
    for ax, panel in zip(axes.flat, panels):
        panel(ax)
    where = max((r["machine"] for r in rows.values()), key=lambda m: m["when"])
    page.suptitle(f"xmem and swap to zram under one memory limit: {where['cpu']}, {where['cpus']} processors, Linux "
                  f"{where['kernel']}, {where['commit']}, {where['when']}" + (" (small form: shows that it runs)" if where["small"] else ""),
                  fontsize=12)
    page.tight_layout(rect=(0, 0, 1, 0.98), h_pad=3, w_pad=3)
    page.savefig(target)


if __name__ == "__main__":
    main()
