"""Job types are found by name, and one that cannot work is refused when it is registered, not when it is run."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationInfo, field_validator

from jobmanager import registry as package_registry
from jobmanager.config import Settings
from jobmanager.errors import InvalidRequest, UnknownType
from jobmanager.job import Job
from jobmanager.registry import Registry, describe, parse_args, type_name

SETTINGS = Settings(data_dir=Path("/nowhere"))


class Copy(Job):
    """Copies a file.

    In chunks.
    """

    class Args(BaseModel):
        """What to copy."""

        source: str
        chunks: int = 1

        @field_validator("source")
        @classmethod
        def _is_ours(cls, value: str, info: ValidationInfo) -> str:
            if not value.startswith(str(info.context["settings"].data_dir)):
                raise ValueError("is not in the data directory")
            return value

    def start(self) -> None:
        """Copy."""


def test_a_type_is_found_under_the_name_of_its_class() -> None:
    types = Registry()

    assert types.register(Copy) is Copy
    assert types.get("Copy") is Copy
    assert "Copy" in types
    assert list(types) == ["Copy"]


def test_a_type_may_choose_another_name_and_its_subclass_does_not_inherit_it() -> None:
    class Moved(Copy):
        type = "move"

    class Renamed(Moved):
        pass

    assert type_name(Moved) == "move"
    assert type_name(Renamed) == "Renamed"


def test_registering_a_type_twice_changes_nothing() -> None:
    types = Registry()
    types.register(Copy)

    types.register(Copy)

    assert list(types) == ["Copy"]


def test_a_name_that_is_taken_by_another_type_is_refused() -> None:
    class Other(Job):
        type = "Copy"

        def start(self) -> None:
            """Do something else."""

    types = Registry()
    types.register(Copy)

    with pytest.raises(ValueError, match="'Copy' already"):
        types.register(Other)
    assert types.get("Copy") is Copy


@pytest.mark.parametrize(
    "thing", [int, Registry, "Copy", None, lambda: None], ids=["type", "another class", "text", "nothing", "function"]
)
def test_what_is_no_job_type_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="is not a subclass of Job"):
        Registry().register(thing)


def test_registering_serves_as_a_decorator() -> None:
    types = Registry()

    @types.register
    class Count(Job):
        def start(self) -> None:
            """Count."""

    assert types.get("Count") is Count


def test_a_type_without_start_is_refused() -> None:
    class Idle(Job):
        pass

    with pytest.raises(TypeError, match="Idle has to define start"):
        Registry().register(Idle)


def test_a_type_whose_args_are_no_model_is_refused() -> None:
    class Loose(Copy):
        Args = dict  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"Loose\.Args has to be a pydantic BaseModel"):
        Registry().register(Loose)


def test_an_unknown_type_is_refused_with_those_that_are_known() -> None:
    types = Registry()
    types.register(Copy)

    with pytest.raises(UnknownType, match=r"no job type 'Nope'. Known types: Copy\.") as refused:
        types.get("Nope")
    assert refused.value.field == "type"


def test_a_package_whose_type_cannot_be_loaded_does_not_keep_the_service_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    points = [
        EntryPoint("Broken", "no_such_module_anywhere:Broken", "jobmanager.jobs"),
        EntryPoint("Function", "jobmanager.registry:describe", "jobmanager.jobs"),
        EntryPoint("Idle", "jobmanager.job:Job", "jobmanager.jobs"),
        EntryPoint("Simple", "jobmanager.jobs.simple:Simple", "jobmanager.jobs"),
    ]
    monkeypatch.setattr(sys.modules[Registry.__module__], "entry_points", lambda *, group: points)
    types = Registry()

    types.load_entry_points()

    assert list(types) == ["Simple"]
    assert all(f"The job type '{name}' of" in caplog.text for name in ("Broken", "Function", "Idle"))
    assert "'Simple'" not in caplog.text


def test_the_description_of_a_type_is_its_docstring() -> None:
    assert describe(Copy) == "Copies a file.\n\nIn chunks."


def test_good_arguments_are_parsed_and_validators_see_the_settings() -> None:
    args = parse_args(Copy, {"source": "/nowhere/a", "chunks": "3"}, SETTINGS)

    assert (args.source, args.chunks) == ("/nowhere/a", 3)


@pytest.mark.parametrize(
    ("args", "field", "text"),
    [
        ({}, "args.source", "source: Field required"),
        ({"source": "/nowhere/a", "chunks": "many"}, "args.chunks", "chunks: Input should be a valid integer"),
        ({"source": "/hunter2"}, "args.source", "source: is not in the data directory"),
    ],
)
def test_bad_arguments_name_the_field_and_do_not_repeat_the_value(args: dict[str, str], field: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text) as refused:
        parse_args(Copy, args, SETTINGS)

    assert refused.value.field == field
    assert "hunter2" not in str(refused.value)


def test_a_type_without_arguments_refuses_any() -> None:
    class Plain(Job):
        def start(self) -> None:
            """Do nothing."""

    with pytest.raises(InvalidRequest, match="surprise: Extra inputs are not permitted"):
        parse_args(Plain, {"surprise": 1}, SETTINGS)


def test_the_registry_of_the_process_is_the_one_that_users_import() -> None:
    assert isinstance(package_registry, Registry)
