"""Every error that fails an export for good names the table and its dataset, in one form."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager.jobs import export

FOLDER = Path(export.__file__).parent
#: The errors that cannot name a table, or pass on the text of one that does.
OTHERS = {
    "catalog.py": "Exports need",  # no dataset is known yet
    "source.py": "{error}.",  # the dataset is not configured
    "formats.py": "reason.decode()",  # made by not_for_parquet_error
    "readers/sqlite_process.py": "header['message']",  # made in the child process
}


def fatal_errors() -> Iterator[tuple[str, ast.expr]]:
    """Yield the text of each error, with its file."""
    for path in sorted(FOLDER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Fatal", "Unreadable"):
                yield str(path.relative_to(FOLDER)), node.args[0]


def shown_values(text: ast.expr) -> set[str]:
    return {ast.unparse(part.value) for part in ast.walk(text) if isinstance(part, ast.FormattedValue)}


@pytest.mark.parametrize(
    ("file", "text"), list(fatal_errors()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_error_that_fails_an_export_for_good_names_the_table(file: str, text: ast.expr) -> None:
    if file in OTHERS and OTHERS[file] in ast.unparse(text):
        return

    assert shown_values(text) & {"dataset", "self._dataset"}, f"{file}: {ast.unparse(text)}"
    assert not shown_values(text) & {"dataset.table", "self._dataset.table"}, "the form of the names is in Dataset"


def test_the_errors_are_found() -> None:
    found = [(file, ast.unparse(text)) for file, text in fatal_errors()]

    assert len(found) > 15
    for file, part in OTHERS.items():
        assert any(other == file and part in text for other, text in found), f"{file} has no such error any more"
