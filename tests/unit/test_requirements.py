"""The image holds exactly the versions that were tested, and nothing that only tests need."""

from __future__ import annotations

import re
from importlib.metadata import distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINNED = Path(__file__).parents[2] / "requirements.txt"


def pinned() -> dict[str, Requirement]:
    """Return the lines of requirements.txt, by the name of the package."""
    lines = [line for line in PINNED.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def needed_by(requirement: Requirement) -> set[str]:
    """Return the packages that a package requires here, with its extras."""
    extras = ["", *requirement.extras]
    required = map(Requirement, distribution(requirement.name).requires or [])
    return {
        canonicalize_name(each.name)
        for each in required
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
    }


def test_every_package_that_another_one_needs_is_pinned_too() -> None:
    found = pinned()

    for requirement in found.values():
        assert needed_by(requirement) <= found.keys(), requirement


def test_every_version_is_exact_and_the_one_that_is_tested() -> None:
    for name, requirement in pinned().items():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
        assert version(name) in requirement.specifier, f"{name}: {version(name)} is installed"


def test_the_service_is_installed_without_what_only_its_tests_need() -> None:
    assert not pinned().keys() & {"pytest", "pytest-xdist", "hypothesis", "mypy", "ruff", "schemathesis"}
