"""Imports point one way, and importing does nothing but define."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "jobmanager"
#: Who may import whom: a layer imports itself and those before it. Modules that are not here are not layered.
LAYERS = [
    {"durable", "errors", "private", "urls"},
    {"core"},
    {"config"},
    {"auth", "signals"},
    {"job"},
    {"client", "registry"},
    {"jobs", "store"},
    {"engine", "observability"},
    {"artifacts", "health", "runtime", "submission"},
    {"bulk"},
    {"visible_jobs"},
    {"manager", "testing"},
    {"http"},
    {"cli", "wsgi"},
    {"serving"},
    {"gunicorn_worker"},
    {"gunicorn_conf"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the full names of what a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def part_of(path: Path) -> str:
    """Return the module or subpackage of jobmanager that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_imported(path: Path) -> set[str]:
    """Return the modules and subpackages of jobmanager that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("jobmanager.")} & LEVEL.keys()


def packages_imported(path: Path) -> set[str]:
    """Return the packages that a file imports from."""
    return {name.split(".")[0] for name in imports(path)}


def names(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_module_has_its_place_among_the_layers() -> None:
    assert {part_of(path) for path in FILES} - {"__init__", "__main__"} <= LEVEL.keys()


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) in LEVEL], ids=names)
def test_imports_point_one_way(path: Path) -> None:
    here = part_of(path)

    for other in parts_imported(path) - {here}:
        assert LEVEL[other] < LEVEL[here], f"{here} must not import {other}"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_the_store_alone_knows_the_database_and_http_alone_knows_flask(path: Path) -> None:
    here, packages = part_of(path), packages_imported(path)

    # Export reads datasets of databases that are not the store's.
    assert here in ("store", "jobs") or not packages & {"sqlalchemy", "alembic", "psycopg", "sqlite3"}
    assert here == "http" or not packages & {"flask", "werkzeug", "flasgger"}


def test_one_module_of_the_store_writes_statuses() -> None:
    writers = [names(path) for path in FILES if "statements.move_job(" in path.read_text(encoding="utf-8")]

    assert writers == ["store/lifecycle.py"]


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "store"], ids=names)
def test_one_module_of_the_store_knows_which_databases_there_are(path: Path) -> None:
    databases = {name.split(".")[2] for name in imports(path) if name.startswith("jobmanager.store.")}

    assert path.name == "opening.py" or path.parent.name in databases or not databases & {"sqlite", "postgresql"}


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "jobs"], ids=names)
def test_job_types_know_neither_the_store_nor_what_is_above_them(path: Path) -> None:
    assert not parts_imported(path) & {"store", "engine", "manager", "http"}


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "core"], ids=names)
def test_the_core_has_no_io_no_clock_and_no_threads(path: Path) -> None:
    assert not packages_imported(path) & {"os", "io", "socket", "sqlite3", "subprocess", "time", "threading"}
    assert "datetime.now" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=names)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    uses = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
    ]

    # gunicorn's master must not import the package, or its workers would have what it had at the start.
    assert not uses or part_of(path) in ("config", "gunicorn_conf", "gunicorn_worker")


def test_importing_everything_starts_no_thread_and_opens_no_file(tmp_path: Path) -> None:
    modules = sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES)
    left_out = ("__main__", "migrations.env", "wsgi", "gunicorn_conf")  # which begin something by being run
    wanted = [name.removesuffix(".__init__") for name in modules if not name.endswith(left_out)]
    script = (
        "import importlib, os, threading\n"
        f"for name in {wanted!r}: importlib.import_module(name)\n"
        "print(threading.active_count())\n"
        "links = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "print([link for link in links if link.startswith(('socket:', os.getcwd()))])\n"
        "print(os.listdir('.'))\n"
    )

    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.splitlines() == ["1", "[]", "[]"]
