"""Draw the result of one benchmark: a bar for each contender, with its spread. The same result gives the same bytes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.frame import Figure, Result, is_ours, shown

#: Readable on white and on almost black: the background of the page is unknown.
_TEXT = "#7d8189"
_FAINT = "#7d818955"
_OURS = "#2f81f7"
_PEER = "#9aa1ab"
_SPREAD = "#d1742f"
_WIDTH = 9.0
_BAR = 0.36  # inches for each contender
_HEAD = 1.05  # inches for the title and the axis of each figure
_LONGEST_NAME, _LONGEST_TITLE = 42, 56  # characters in a line

mpl.rcParams |= {
    "svg.hashsalt": "benchmarks",  # otherwise, the ids of elements are random
    "svg.fonttype": "path",  # the same width everywhere
    "font.size": 10.5,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.edgecolor": _FAINT,
}


def draw(result: Result, path: Path) -> None:
    """Write an SVG with a part for each drawn figure."""
    figures = [figure for figure in result.figures if figure.is_drawn]
    heights = [_HEAD + _BAR * sum(map(_lines, figure.rounds)) for figure in figures]
    canvas = Canvas(figsize=(_WIDTH, sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.1, hspace=0.0))
    parts = canvas.subplots(len(figures), squeeze=False, gridspec_kw={"height_ratios": heights})
    for part, figure in zip(parts[:, 0], figures, strict=True):
        _draw(part, figure)
    canvas.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _draw(part: Axes, figure: Figure) -> None:
    names = list(figure.rounds)
    places = _places(names)
    medians = [figure.median(name) for name in names]
    colours = [_OURS if is_ours(name) else _PEER for name in names]
    part.barh(places, medians, height=0.62, color=colours, zorder=2)
    for place, name, median in zip(places, names, medians, strict=True):
        values = figure.rounds[name]
        part.plot([min(values), max(values)], [place, place], color=_SPREAD, linewidth=2, marker="|", zorder=3)
        weight = "bold" if is_ours(name) else "normal"
        part.annotate(
            shown(median),
            (max(values), place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=_OURS if is_ours(name) else _TEXT,
            weight=weight,
        )
    part.set_yticks(places, [_wrapped(name) for name in names])
    for label, name in zip(part.get_yticklabels(), names, strict=True):
        label.set(color=_OURS if is_ours(name) else _TEXT, weight="bold" if is_ours(name) else "normal")
    part.set_ylim(sum(map(_lines, names)), 0)
    _scale(part, figure)
    better = "less" if figure.is_less_better else "more"
    title = textwrap.fill(figure.title, _LONGEST_TITLE)
    part.set_title(title, loc="left", fontsize=12, color=_TEXT, weight="bold")
    part.set_xlabel(f"{figure.unit}{', logarithmic' if figure.is_log else ''}; {better} is better", fontsize=9.5)


def _scale(part: Axes, figure: Figure) -> None:
    """Set the axis: from zero, or logarithmic, with room for the numbers at the ends of the bars."""
    values = [value for rounds in figure.rounds.values() for value in rounds]
    most = max(values) or 1.0
    if figure.is_log:
        least = min((value for value in values if value > 0), default=1.0)
        part.set_xscale("log")
        part.set_xlim(least / 3, most * (most / least * 3) ** 0.2)
        part.xaxis.set_major_locator(LogLocator(numticks=8))
        part.xaxis.set_minor_locator(NullLocator())
    else:
        part.set_xlim(0, most * 1.16)
        part.xaxis.set_major_locator(MaxNLocator(6))
    part.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _place: f"{value:,.0f}" if value >= 100 else f"{value:g}")
    )
    part.grid(axis="x", color=_FAINT, linewidth=0.8, zorder=0)
    part.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        part.spines[side].set_visible(False)


def _places(names: list[str]) -> list[float]:
    """Return the middle of each bar, in lines from the top: a name of two lines takes two."""
    places, end = [], 0.0
    for name in names:
        places.append(end + _lines(name) / 2)
        end += _lines(name)
    return places


def _lines(name: str) -> int:
    return _wrapped(name).count("\n") + 1


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, _LONGEST_NAME))
