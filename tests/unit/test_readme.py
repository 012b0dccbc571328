"""What the README says about the life of a job is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from jobmanager.core.states import ASKED, EXCEPTIONS, TRANSITIONS, Action, Status

README = Path(__file__).parents[2] / "README.md"


def diagram() -> str:
    """Return the table of transitions as a Mermaid state diagram; what people ask for is marked with an arrow."""
    edges: dict[tuple[Status, Status], list[Action]] = {}
    for (status, action), to_status in TRANSITIONS.items():
        edges.setdefault((status, to_status), []).append(action)
    for (status, action), (_, to_status) in EXCEPTIONS.items():
        edges.setdefault((status, to_status), []).append(action)
    lines = ["stateDiagram-v2", "    [*] --> submitted: submit"]
    for (status, to_status), actions in edges.items():
        names = ", ".join(f"{action}!" if action in ASKED else action for action in actions)
        lines.append(f"    {status} --> {to_status}: {names}")
    lines += [f"    {status} --> [*]" for status in (Status.COMPLETED, Status.STOPPED)]
    return "\n".join(lines)


def test_the_diagram_in_the_readme_is_the_table_of_transitions() -> None:
    text = README.read_text(encoding="utf-8")

    match = re.search(r"<!-- states:.*?```mermaid\n(.*?)\n```", text, re.DOTALL)

    assert match is not None
    assert match[1] == diagram(), f"put this into the README:\n{diagram()}"


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200
