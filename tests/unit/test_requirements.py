"""The image has exactly the tested versions and nothing for tests only; setup.cfg declares every import."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "requirements.txt"
DEV = ROOT / "requirements-dev.txt"
EXTRAS = ("export", "postgresql", "mysql", "duckdb", "otel")


def pinned() -> dict[str, Requirement]:
    """Return the lines of requirements.txt, by the name of the package."""
    lines = [line for line in PINNED.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def declared_lines(extra: str | None = None) -> list[str]:
    """Return the requirements in setup.cfg: those of every server, or those of an extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    text = config["options"]["install_requires"] if extra is None else config["options.extras_require"][extra]
    return text.split()


def needs(extra: str | None = None) -> dict[str, Requirement]:
    """Return the requirements in setup.cfg by the name of the package."""
    return {canonicalize_name(each.name): each for each in map(Requirement, declared_lines(extra))}


def imported() -> set[str]:
    """Return the names of the top-level packages that the code imports, at once or later."""
    found: set[str] = set()
    for path in [*(ROOT / "jobmanager").rglob("*.py"), ROOT / "wsgi.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    return found


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
    of_tests = [line for line in DEV.read_text(encoding="utf-8").splitlines() if not line.startswith("-r")]

    assert not pinned().keys() & {canonicalize_name(Requirement(line).name) for line in of_tests}


def test_every_package_that_the_code_imports_is_declared() -> None:
    declared = set(needs()) | {name for extra in EXTRAS for name in needs(extra)}
    provided_by = packages_distributions()

    for name in sorted(imported() - sys.stdlib_module_names - {"jobmanager"}):
        distributions = {canonicalize_name(each) for each in provided_by[name]}
        assert distributions & declared or name == "pydantic_core", name  # it comes with pydantic


def test_a_package_needs_at_least_the_version_with_which_it_is_used() -> None:
    for requirement in [*needs().values(), *(each for extra in EXTRAS for each in needs(extra).values())]:
        assert str(requirement.specifier).startswith(">="), requirement
        assert version(requirement.name) in requirement.specifier, requirement


def test_the_image_can_export_and_keep_its_jobs_in_postgresql() -> None:
    assert {*needs(), *needs("export"), *needs("postgresql")} <= pinned().keys()


def test_all_extras_can_be_installed_at_once() -> None:
    (requirement,) = map(Requirement, declared_lines("all"))

    assert requirement.name == "jobmanager"
    assert requirement.extras == set(EXTRAS)
