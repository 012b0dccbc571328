"""The guide for authors of job types says what is so: its code runs, and its tables name what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import jobmanager
from jobmanager import Job
from jobmanager.registry import ENTRY_POINT_GROUP, Registry
from jobmanager.testing import run

GUIDE = (Path(__file__).parents[2] / "docs" / "job-types.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def rows(head: str) -> list[list[str]]:
    """Return the cells of the table under the header that begins so."""
    table = GUIDE[GUIDE.index(f"| {head}") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`(?:self\.)?(\w+)", cell)


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what is defined when every block of Python in the guide has run, in order."""
    types = Registry()
    monkeypatch.setattr(jobmanager, "registry", types)
    # A name of its own: pydantic looks up the annotations of a class in its module.
    namespace: dict[str, Any] = {"__name__": "guide", "types": types}
    for block in blocks("python"):
        exec(compile(block, "docs/job-types.md", "exec"), namespace)
    return namespace


def test_its_code_runs_and_registers_the_example(code: dict[str, Any]) -> None:
    assert len(blocks("python")) == 4
    assert list(code["types"]) == ["CountTo"]


@pytest.mark.parametrize("option", ["halt_after", "restart_after"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_its_copy_is_exact_however_it_is_interrupted(
    code: dict[str, Any], tmp_path: Path, option: str, number: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 1000)

    outcome = run(code["Copy"], {"source": str(source)}, **{option: number})  # type: ignore[arg-type]

    assert outcome.result == {"file": "copy", "filename": "source"}
    assert outcome.files == {"copy": source.read_bytes()}


def test_its_copy_does_not_try_again_without_a_source(code: dict[str, Any]) -> None:
    assert run(code["Copy"], {"source": "/nowhere"}).error == "there is no /nowhere"


def test_every_hook_it_names_is_one_and_none_is_missing() -> None:
    named = [name for row in rows("to define") for name in names(row[0])]

    hooks = [name for name, value in vars(Job).items() if callable(value) and not name.startswith("_")]
    assert sorted(named) == sorted(set(hooks) - {"checkpoint", "wait", "Args"})


def test_every_member_it_names_is_there() -> None:
    known = set(vars(Job)) | set(Job.__annotations__)

    for row in rows("to use"):
        assert set(names(row[0])[:1]) <= known, row


def test_every_class_attribute_it_names_has_the_default_it_says() -> None:
    said = {names(name)[0]: default for name, default, _ in rows("to set")}

    is_default = {name: str(getattr(Job, name)).removesuffix(".0") for name in said} | {"type": "class name"}
    assert said == is_default
    classwide = {name for name, kind in Job.__annotations__.items() if "ClassVar" in kind}
    assert said.keys() == classwide - {"Args"}


def test_its_entry_point_is_of_the_group_that_is_read() -> None:
    (block,) = blocks("toml")

    assert list(tomllib.loads(block)["project"]["entry-points"]) == [ENTRY_POINT_GROUP]


def test_it_is_short_enough_to_be_read() -> None:
    assert len(GUIDE.splitlines()) <= 160
