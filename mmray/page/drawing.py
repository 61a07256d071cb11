"""Drawings for a page: the same figures give the same bytes, colours are CSS variables, text stays text.

Needs matplotlib.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Colours of a light page, by the page's CSS variables. Blue, orange and grey are distinguishable for all.
COLOURS = {
    "ink": "#1d2129",
    "faint": "#687080",
    "line": "#d9dde4",
    "page": "#ffffff",
    "grey": "#5b6271",
    "blue": "#0a64b0",
    "orange": "#b84f06",
}
_FONT = 10.0  # points


@contextmanager
def canvas(size: tuple[float, float], salt: str) -> Iterator[Figure]:
    """An empty figure; draw on it and call `to_svg` within the body.

    Args:
        size: width and height, in points.
        salt: unique to this drawing in its page, because ids must not be shared.
    """
    options = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"{size} {salt}",
        "font.family": "DejaVu Sans",  # comes with matplotlib: every machine measures the same widths
        "font.size": _FONT,
    }
    with mpl.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has a font for it
        yield Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)


def axes_within(figure: Figure, margins: tuple[float, float, float, float]) -> Axes:
    """Axes with a faint grid, so many points from the left, right, bottom and top of the figure."""
    left, right, bottom, top = margins
    width, height = (72 * inches for inches in figure.get_size_inches())
    axes = figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height),
        facecolor="none",
    )
    axes.grid(axis="y", color=COLOURS["line"], lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=COLOURS["line"], labelcolor=COLOURS["faint"])
    for name, spine in axes.spines.items():
        spine.set(color=COLOURS["line"], visible=name == "bottom")
    return axes


def to_svg(figure: Figure, label: str, told: Sequence[str] = ()) -> str:
    """The figure as a part of an HTML page: no prologue, only used ids, CSS variables as colours.

    Args:
        figure: of `canvas`.
        label: description, for screen readers.
        told: tooltips of the marks with the ids ``point-0``, ``point-1``...
    """
    figure.patch.set_alpha(0)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="point-(\d+)">', lambda m: f"<g><title>{escape(told[int(m[1])])}</title>", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(
        r'<svg .*?viewBox="(.*?)".*?>',
        r'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        rf'viewBox="\1" role="img" aria-label="{escape(label)}">',
        svg,
        count=1,
        flags=re.DOTALL,
    )
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.strip()
