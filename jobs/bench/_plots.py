"""Plots of the results of these scripts, for the docs. Takes their JSON."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter

#: Colour and style of each way to answer a record. Cascade and fusion nearly coincide, so one is broad.
_WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "image only": ("#c2410c", {"lw": 1.8}),
    "text only": ("#6b7280", {"lw": 1.4, "ls": "--"}),
    "cascade": ("#1d4ed8", {"lw": 1.6, "zorder": 3}),
    "fusion": ("#4ea866", {"lw": 4.5}),
}


def draw_study(study: Mapping[str, Any], units: Mapping[str, str], path: Path) -> None:
    """Accuracy over strength with its standard error, a panel for each damage; and the cost of a record.

    Args:
        study: output of `jobs/bench/blur.py`.
        units: of the strengths, by damage.
        path: of the image.
    """
    figure, panels = plt.subplots(
        1, 4, figsize=(11.5, 3.7), width_ratios=(1, 1, 1, 0.8), layout="constrained", dpi=100
    )
    for panel, (damage, strengths) in zip(panels, study["found"].items(), strict=False):
        steps = range(len(strengths))
        for way, (colour, style) in _WAYS.items():
            right = [found[way]["accuracy"] for found in strengths.values()]
            error = [found[way]["standard_error"] for found in strengths.values()]
            panel.plot(steps, right, color=colour, **style)
            if way != "text only":
                low, high = ([r + sign * e for r, e in zip(right, error, strict=True)] for sign in (-1, 1))
                panel.fill_between(steps, low, high, color=colour, alpha=0.12, lw=0)
        panel.set_xticks(steps, strengths)
        panel.set_title(damage)
        panel.set_xlabel(units[damage])
        panel.set_ylim(0.2, 1)
        _plain(panel)
    panels[0].set_ylabel(f"accuracy on {study['records']} held-out records")
    colours = [colour for colour, _ in _WAYS.values()]
    bars = panels[3].barh(list(_WAYS), [study["record_ms"][way] for way in _WAYS], color=colours)
    panels[3].bar_label(bars, fmt="%.1f", padding=3)
    panels[3].invert_yaxis()
    panels[3].set_title("cost of a record")
    panels[3].set_xlabel("milliseconds on one core")
    panels[3].margins(x=0.2)
    _plain(panels[3])
    panels[3].grid(visible=False)
    for label, colour in zip(panels[3].get_yticklabels(), colours, strict=True):
        label.set(color=colour, fontweight="bold")
    figure.savefig(path)


def draw_history(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each stage's ratio over time, as a share of its first; a cross marks a loss.

    Args:
        entries: lines of the history of `jobs/bench/check.py`, in order.
        path: of the image.
    """
    figure, panel = plt.subplots(figsize=(8, 3.6), layout="constrained", dpi=100)
    days = [datetime.fromisoformat(entry["when"]) for entry in entries]
    for stage in entries[0]["ratio"]:
        ratios = [entry["ratio"].get(stage, math.nan) for entry in entries]
        shares = [ratio / ratios[0] for ratio in ratios]
        (line,) = panel.plot(days, shares, marker="o", ms=3, lw=1.4, label=stage)
        lost = [(d, s) for d, s, e in zip(days, shares, entries, strict=True) if stage in e["lost"]]
        panel.plot(*zip(*lost, strict=True) if lost else ([], []), "x", ms=8, color=line.get_color())
    panel.axhline(1, color="#9ca3af", lw=0.8)
    panel.set_ylabel("speed relative to the bare library,\nas a share of the first")
    figure.legend(ncols=len(entries[0]["ratio"]), frameon=False, loc="outside upper left")
    panel.xaxis.set_major_formatter(ConciseDateFormatter(panel.xaxis.get_major_locator()))
    _plain(panel)
    figure.savefig(path)
    plt.close(figure)


def draw_course(found: Mapping[str, Any], path: Path) -> None:
    """Rows a second over time, a colour for each node, and events of nodes.

    Args:
        found: output of `jobs/bench elastic`.
        path: of the image.
    """
    width = found["bin_s"]
    bins = range(max(int(at) for rows in found["rows"].values() for at in rows) + 1)
    figure, panel = plt.subplots(figsize=(9, 3.4), layout="constrained", dpi=100)
    below = [0.0] * len(bins)
    for number, rows in enumerate(found["rows"].values()):
        rates = [rows.get(at, 0) / width for at in bins]
        colour = plt.get_cmap("tab10")(number)
        panel.bar([at * width for at in bins], rates, width, below, align="edge", color=colour)
        below = [low + rate for low, rate in zip(below, rates, strict=True)]
    top = max(below)
    for number, (at, what, _) in enumerate(found["events"]):
        panel.axvline(at, color="#374151", lw=0.9, ls="--")
        place = (at, top * (1.03 + 0.07 * (number % 3)))  # not on top of each other
        panel.annotate(what, place, xytext=(2, 0), textcoords="offset points", fontsize=8)
    panel.set_ylim(0, top * 1.25)
    panel.set_xlabel("seconds after the first row")
    panel.set_ylabel("rows/s, by node")
    _plain(panel)
    figure.savefig(path)


def draw_contenders(contenders: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy with its 95 % interval over speed, each point with its number in a list.

    Args:
        contenders: of the output of `jobs/bench/variants.py`; the first is what speeds are compared with.
        path: of the image.
    """
    figure, panel = plt.subplots(figsize=(9.5, 4.6), layout="constrained", dpi=100)
    speeds = [found["ratio_to_first"]["clock"] for found in contenders]
    for number, (speed, found) in enumerate(zip(speeds, contenders, strict=True), start=1):
        right, (low, high) = found["accuracy"], found["interval"]
        name = found["contender"].removesuffix(" alone").replace("-optimized", "")
        colour = plt.get_cmap("tab20")((number - 1) % 20)
        panel.vlines(speed, low, high, color=colour, lw=1)
        panel.plot(speed, right, "o", ms=13, color=colour, alpha=0.75, label=f"{number}  {name}")
        panel.annotate(str(number), (speed, right), ha="center", va="center", fontsize=8)
    panel.set_xscale("log")
    ticks = [n for n in (0.25, 0.5, 1, 2, 4, 8, 16) if min(speeds) / 1.5 <= n <= 1.5 * max(speeds)]
    panel.set_xticks(ticks, [f"{n:g}x" for n in ticks])
    panel.minorticks_off()
    panel.set_xlabel(f"rows/s in the job, relative to {contenders[0]['contender']}")
    panel.set_ylabel("accuracy on held-out records, 95 % interval")
    figure.legend(loc="outside right center", frameon=False, fontsize=8, markerscale=0.5)
    _plain(panel)
    figure.savefig(path)
    plt.close(figure)


def _plain(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#e5e7eb")
    panel.set_axisbelow(True)
