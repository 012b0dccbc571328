"""Write docs/BENCHMARKS.md and its pictures from stored results. Measures nothing.

    python -m benchmarks.report [FOLDER]

FOLDER holds the results and gets the pictures; the page is written beside it. Runs in the environment of the peers,
which has matplotlib. The same results give the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.frame import NAMES, RESULTS, Figure, Goal, Result, is_ours, shown
from benchmarks.plot import draw

_INTRODUCTION = """\
# Benchmarks

The cost of the service ("ours"), compared with common alternatives. The contenders of a comparison take turns on one
machine, round by round (A B A B …), so that a slow moment of the machine affects all of them. The tables and the bars
show the median of the rounds, with the smallest and the largest value; *to ours* is the median of the ratios of each
round. Missed goals are shown, too.

`make bench` repeats all comparisons and rewrites this page; `make bench ONLY=export` repeats one of them,
`ONLY="jobs batch"` several. [benchmarks/report.py](../benchmarks/report.py) makes this page from the files in
[benchmarks/](benchmarks)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A result, with the machine and the time of its measurement."""

    result: Result
    where: str


def main() -> None:
    """Write the page, and a picture for each result."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    found = read(folder)
    for kept in found:
        draw(kept.result, folder / picture(kept.result))
    file = folder.parent / "BENCHMARKS.md"
    file.write_text(page(found), encoding="utf-8")
    print(f"Wrote {file} with {', '.join(kept.result.name for kept in found) or 'no results'}")


def read(folder: Path) -> list[Kept]:
    """Return the results in the folder, in the order in which they are measured."""
    places = {name: place for place, name in enumerate(NAMES)}
    files = sorted(folder.glob("*.json"), key=lambda file: (places.get(file.stem, len(places)), file.stem))
    return [Kept(*Result.kept(file)) for file in files]


def page(found: Sequence[Kept]) -> str:
    """Return the page as Markdown."""
    parts = [_INTRODUCTION]
    if found:
        parts += ["## Goals", "\n".join(_goals(found)), "## Machine", "\n".join(_machines(found))]
    for kept in found:
        parts += _section(kept.result)
    return "\n\n".join(parts) + "\n"


def picture(result: Result) -> str:
    """Return the file name of the picture of a result."""
    return f"{result.name}.svg"


def _goals(found: Sequence[Kept]) -> Iterator[str]:
    goals = [(kept.result, goal) for kept in found for goal in kept.result.goals]
    reached = sum(goal.is_reached() for _result, goal in goals)
    yield f"{reached} of {len(goals)} goals are reached.\n"
    yield "| comparison | goal | wanted | measured | |"
    yield "|---|---|---:|---:|---|"
    for result, goal in goals:
        mark = "reached" if goal.is_reached() else "**not reached**"
        found_and_wanted = f"{_wanted(goal)} | {_measured(goal)}"
        yield f"| [{result.name}](#{_anchor(result)}) | {goal.text} | {found_and_wanted} | {mark} |"


def _wanted(goal: Goal) -> str:
    return f"{'≤' if goal.is_at_most else '≥'} {_with_unit(f'{goal.wanted:,.6g}', goal.unit)}"


def _measured(goal: Goal) -> str:
    """Return the value, with enough digits to distinguish it from the goal."""
    text = shown(goal.value)
    if goal.value != goal.wanted and float(text.replace(",", "")) == goal.wanted:
        text = f"{goal.value:,.6g}"
    return _with_unit(text, goal.unit)


def _with_unit(text: str, unit: str) -> str:
    return f"{text}{unit}" if unit == "×" else f"{text} {unit}".strip()


def _machines(found: Sequence[Kept]) -> Iterator[str]:
    yield "| comparison | measured on | at |"
    yield "|---|---|---|"
    for kept in found:
        machine, _, at = kept.where.rpartition("; ")
        yield f"| [{kept.result.name}](#{_anchor(kept.result)}) | {machine} | {at} |"


def _anchor(result: Result) -> str:
    """Return GitHub's anchor for the heading of a result."""
    kept = "".join(letter for letter in result.title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _section(result: Result) -> Iterator[str]:
    yield f"## {result.title}"
    yield from (" ".join(paragraph.split()) for paragraph in result.how.strip().split("\n\n"))
    if result.versions:
        yield "Versions: " + ", ".join(f"{name} {version}" for name, version in result.versions.items()) + "."
    yield f"![{result.title}: the medians of the table as bars, with their spread](benchmarks/{picture(result)})"
    yield "\n".join(_table(result))


def _table(result: Result) -> Iterator[str]:
    has_peers = any(len(figure.rounds) > 1 for figure in result.figures)
    yield "| figure | contender | median | least … most | rounds |" + (" to ours |" if has_peers else "")
    yield "|---|---|---:|---:|---:|" + ("---:|" if has_peers else "")
    for figure in result.figures:
        for place, contender in enumerate(figure.rounds):
            yield _row(figure, contender, is_first=place == 0, has_peers=has_peers)


def _row(figure: Figure, contender: str, *, is_first: bool, has_peers: bool) -> str:
    values = figure.rounds[contender]
    name = f"**{contender}**" if is_ours(contender) else contender
    what = f"{figure.title} [{figure.unit}]" if is_first else ""
    cells = [what, name, shown(figure.median(contender)), f"{shown(min(values))} … {shown(max(values))}"]
    cells += [str(len(values)), *([_to_ours(figure, contender)] if has_peers else [])]
    return f"| {' | '.join(cells)} |"


def _to_ours(figure: Figure, contender: str) -> str:
    ours = next(filter(is_ours, figure.rounds), None)
    if ours in (None, contender) or len(figure.rounds[contender]) != len(figure.rounds[ours]):
        return ""
    return f"{shown(figure.ratio(contender, ours))}×"


if __name__ == "__main__":
    main()
