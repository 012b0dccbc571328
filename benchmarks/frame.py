"""Shared by all benchmarks: measuring in turns, the results, and where they are stored."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "benchmarks"
#: All benchmarks, in the order of the report.
NAMES = ("jobs", "submit", "batch", "control", "export", "shapes", "scale", "idle")


@dataclass(frozen=True)
class Figure:
    """One quantity, measured for several contenders, once in each round."""

    title: str
    unit: str
    #: by contender, one value for each round
    rounds: dict[str, list[float]]
    #: True for times and memory
    is_less_better: bool = False
    #: drawn on a logarithmic scale, for contenders that are tens of times apart
    is_log: bool = False
    #: shown in the picture; the table shows all figures
    is_drawn: bool = True

    def median(self, contender: str) -> float:
        """Return the median of the rounds."""
        return statistics.median(self.rounds[contender])

    def ratio(self, one: str, other: str) -> float:
        """Return the median of the ratios of each round, so that a slow moment of the machine affects both."""
        pairs = zip(self.rounds[one], self.rounds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)


@dataclass(frozen=True)
class Goal:
    """A goal and the measured value."""

    text: str
    value: float
    wanted: float
    unit: str = "×"
    is_at_most: bool = False

    def is_reached(self) -> bool:
        """Return True if the value reaches the goal."""
        return self.value <= self.wanted if self.is_at_most else self.value >= self.wanted


@dataclass(frozen=True)
class Result:
    """The result of one benchmark."""

    name: str
    title: str
    #: how it was measured, so that a reader can judge whether it is fair
    how: str
    figures: list[Figure]
    goals: list[Goal]
    #: versions of the compared packages
    versions: dict[str, str] = field(default_factory=dict)

    def show(self) -> None:
        """Print the result."""
        print(f"\n{self.title}")
        for figure in self.figures:
            print(f"  {figure.title} [{figure.unit}]")
            for contender, values in figure.rounds.items():
                spread = f"{min(values):,.5g} … {max(values):,.5g}"
                print(f"    {contender:38} {statistics.median(values):12,.5g}   ({spread})")
        for goal in self.goals:
            sign, mark = ("≤", "≥")[not goal.is_at_most], "reached" if goal.is_reached() else "NOT reached"
            print(f"  {goal.text}: {shown(goal.value)} {goal.unit} (goal {sign} {goal.wanted:,.6g}): {mark}")

    def keep(self, folder: Path = RESULTS) -> None:
        """Write the result to the folder that the report is made from."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = asdict(self) | {"machine": machine(), "measured_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
        text = json.dumps(kept, indent=1, ensure_ascii=False)
        (folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def kept(cls, file: Path) -> tuple[Result, str]:
        """Load a result; return it with the machine and the time of its measurement."""
        told = json.loads(file.read_text(encoding="utf-8"))
        where = f"{told.pop('machine')}; {told.pop('measured_at')}"
        figures = [Figure(**each) for each in told.pop("figures")]
        goals = [Goal(**each) for each in told.pop("goals")]
        return cls(**told, figures=figures, goals=goals), where


def in_turns(
    ways: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int, *, warm_up: int = 0
) -> list[dict[str, dict[str, float]]]:
    """Measure all ways in turns: A B A B. Return the figures by round and way, without those of the warm-up."""
    told = [{name: dict(way()) for name, way in ways.items()} for _ in range(warm_up + rounds)]
    return told[warm_up:]


def in_turns_within(
    ways: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int, seconds: float
) -> list[dict[str, dict[str, float]]]:
    """Measure all ways in turns, for as many rounds as fit into *seconds*, but at least one and at most *rounds*."""
    began = time.monotonic()
    told = in_turns(ways, 1)
    while len(told) < rounds and (time.monotonic() - began) * (len(told) + 1) / len(told) < seconds:
        told += in_turns(ways, 1)
    return told


def figure(
    told: Sequence[Mapping[str, Mapping[str, float]]],
    key: str,
    title: str,
    unit: str,
    *,
    is_less_better: bool = False,
    is_log: bool = False,
    is_drawn: bool = True,
) -> Figure:
    """Return the figure with the values of *key*, for the ways that measured it."""
    ways = [way for way in told[0] if key in told[0][way]]
    rounds = {way: [each[way][key] for each in told] for way in ways}
    return Figure(
        title=title, unit=unit, rounds=rounds, is_less_better=is_less_better, is_log=is_log, is_drawn=is_drawn
    )


def is_ours(contender: str) -> bool:
    """Return True if a contender is this service, by the beginning of its name."""
    return contender.lower().startswith(("ours", "job manager", "jobmanager"))


def shown(value: float) -> str:
    """Format a number with at least three significant digits and a separator of thousands.

    >>> shown(12345.6), shown(12.345), shown(0.12345), shown(0)
    ('12,346', '12.3', '0.123', '0')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1 else f"{value:.3g}"


def spread(times: Sequence[float], name: str = "") -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds, of times in seconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {f"{name}p50": cuts[49] * 1000, f"{name}p99": cuts[98] * 1000}


def ask(command: Sequence[str | Path], **how: Any) -> dict[str, float]:
    """Run a program and return the JSON object in its last line of output. Raises CalledProcessError if it fails."""
    environment = os.environ | how.pop("env", {})
    told = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True, **how
    )
    figures: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return figures


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of packages in this environment."""
    return {name: version(name) for name in packages}


def machine() -> str:
    """Describe this machine: processor, memory and system."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    models = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {pages:.0f} GiB, {system}"
