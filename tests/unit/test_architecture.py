"""docs/architecture.md names functions that exist, links to files that exist, and lists every module.

Run this file to write the list of modules into the page: `python tests/unit/test_architecture.py`.
"""

from __future__ import annotations

import ast
import re
import textwrap
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
MIGRATIONS = ROOT / "jobmanager" / "store" / "migrations" / "versions"
#: `module:name` and `module:Class.method`
OBJECTS = sorted(set(re.findall(r"`(jobmanager[\w.]*:[\w.]+)`", TEXT)))
#: `path/to/script.js:function`
SCRIPTS = sorted(set(re.findall(r"`(jobmanager/[\w/.]+\.js:\w+)`", TEXT)))
LIST = re.compile(r"(<!-- modules: [^\n]*-->\n).*?(<!-- end of modules -->)", re.DOTALL)


def module_list() -> str:
    """Return the packages with their modules, each with the first line of its docstring."""
    lines: list[str] = []
    for folder in sorted({path.parent for path in (ROOT / "jobmanager").rglob("*.py")} - {MIGRATIONS}):
        modules = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("__")]
        lines += ["", wrapped(f"**{folder.relative_to(ROOT)}/**: {summary(folder / '__init__.py')}"), ""]
        lines += [wrapped(f"- `{path.name}`: {summary(path)}") for path in modules]
    return "\n".join(lines) + "\n\n"


def wrapped(text: str) -> str:
    return textwrap.fill(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def summary(path: Path) -> str:
    """Return the first line of the module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{path} has no docstring"
    return docstring.splitlines()[0]


@pytest.mark.parametrize("name", OBJECTS)
def test_each_function_that_the_page_names_exists(name: str) -> None:
    module, _, path = name.partition(":")

    assert reduce(getattr, path.split("."), import_module(module)) is not None


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_function_of_the_dashboard_that_the_page_names_exists(name: str) -> None:
    file, _, function = name.partition(":")

    assert f"function {function}(" in (ROOT / file).read_text(encoding="utf-8")


def test_the_page_names_functions_of_every_layer() -> None:
    packages = {name.split(":")[0].split(".")[1] for name in OBJECTS}

    assert {"core", "engine", "http", "job", "jobs", "manager", "signals", "store"} <= packages
    assert {"observability", "runtime", "serving"} <= packages
    assert SCRIPTS


def test_the_page_lists_every_module() -> None:
    found = LIST.search(TEXT)

    assert found is not None
    assert found[0] == f"{found[1]}{module_list()}{found[2]}", "run: python tests/unit/test_architecture.py"


def test_the_page_links_to_each_decision() -> None:
    decisions = {f"adr/{path.name}" for path in (ROOT / "docs" / "adr").glob("*.md")}

    assert decisions <= set(re.findall(r"\]\(([^)#]+)\)", TEXT))


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda path: path.name)
def test_each_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_no_class_has_more_than_25_methods_or_300_lines() -> None:
    crowded = {}
    for path in (ROOT / "jobmanager").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)
                lines = (node.end_lineno or 0) - node.lineno + 1
                if methods > 25 or lines > 300:
                    crowded[node.name] = methods, lines

    assert crowded == {}


if __name__ == "__main__":
    PAGE.write_text(LIST.sub(lambda found: f"{found[1]}{module_list()}{found[2]}", TEXT), encoding="utf-8")
