"""The dashboard and its description name numbers that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jobmanager.observability.metrics

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = Path(jobmanager.observability.metrics.__file__).read_text(encoding="utf-8")


def names_in(text: str) -> set[str]:
    """Return the numbers that a text names, without what Prometheus adds to a histogram or a counter."""
    found = re.findall(r"\bjobmanager_[a-z_]+", text)
    return {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in found}


def test_every_panel_shows_numbers_that_there_are() -> None:
    panels = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))["panels"]
    known = set(re.findall(r'"(jobmanager_[a-z_]+)"', SOURCE))

    assert len(panels) > 10
    for panel in panels:
        for target in panel["targets"]:
            assert names_in(target["expr"]), panel["title"]
            assert names_in(target["expr"]) <= known, panel["title"]


def test_every_number_is_shown_on_the_dashboard() -> None:
    known = set(re.findall(r'"(jobmanager_[a-z_]+)"', SOURCE))

    assert known <= names_in((DOCS / "grafana.json").read_text(encoding="utf-8"))
