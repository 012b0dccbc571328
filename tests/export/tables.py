"""Export whole tables, and compare every cell of the files with what the database's own client reads.

A client's value is turned into what docs/export.md says of its family and format, and the files are read with as little
interpretation as possible: a CSV cell is a text with or without quotes, and numbers of JSON are texts.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet

from jobmanager.config import Settings
from jobmanager.jobs.export.job import Export
from jobmanager.testing.trial import RunOutcome, run

FORMATS = ("csv", "jsonl", "parquet")
_CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\n]*))([,\n])')
_NUMBERS = ("integer", "real")


class SmallExport(Export):
    """An export of small chunks."""

    chunk_rows: ClassVar[int] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table under test."""

    name: str
    #: integer, real, truth, text, bytes, date, time or zoned. Some are compared with the text that the database shows:
    #: decimal, wide_time (infinity, or before the year 1), and json. mixed: SQLite's, of values of any type.
    family: str


def export(job: type[Export], settings: Settings, file_format: str, **options: Any) -> RunOutcome:
    """Run an export of all dates."""
    args = {"from_date": "0001-01-01", "to_date": "9999-12-31", "format": file_format} | options.pop("args", {})
    return run(job, args, settings=settings, **options)


def file_of(outcome: RunOutcome) -> bytes:
    """Return the file of an export; above 1 MiB an outcome has its SHA-256 only."""
    content = outcome.files[outcome.result["file"]]  # type: ignore[index, call-overload]
    assert isinstance(content, bytes), "a table under test makes a file of up to 1 MiB"
    return content


def dataset(folder: Path, url: str, table: str, **more: Any) -> Settings:
    """Configure one dataset, with date column "at" and key "id"."""
    given = {"url": url, "table": table, "date_column": "at", "key": "id"} | more
    (folder / "datasets.toml").write_text("[set]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in given.items()))
    return Settings(data_dir=folder)


def cells(data: bytes, file_format: str, columns: list[Column]) -> list[list[Any]]:
    """Return the cells of a file, after a check of its header."""
    names = [column.name for column in columns]
    if file_format == "parquet":
        table = pyarrow.parquet.read_table(io.BytesIO(data))
        assert table.column_names == names
        rows = [list(row.values()) for row in table.to_pylist()]
    elif file_format == "jsonl":
        objects = [json.loads(line, parse_float=_Number, parse_int=_Number) for line in data.decode().split("\n")[:-1]]
        assert all(list(found) == names for found in objects)
        rows = [list(found.values()) for found in objects]
    else:
        header, *rows = _csv_rows(data.decode())
        assert header == [(name, True) for name in names]
    return [[_same_float(value, column) for value, column in zip(row, columns, strict=True)] for row in rows]


def expected(rows: list[tuple[Any, ...]], file_format: str, columns: list[Column]) -> list[list[Any]]:
    """Return the cells that a file has to have, for rows as the database's client reads them."""
    kinds = {"mixed": _Mixed, "decimal": _Decimal, "wide_time": _WideTime}
    rows = [[kinds.get(c.family, _unchanged)(v) for v, c in zip(row, columns, strict=True)] for row in rows]
    form = {"csv": _csv_cell, "jsonl": _json_value, "parquet": _same}[file_format]
    shown = [[form(value, column) for value, column in zip(row, columns, strict=True)] for row in rows]
    if file_format == "csv" and len(columns) == 1:
        shown = [[("", True) if value == ("", False) else value for value in row] for row in shown]
    return [[_same_float(value, column) for value, column in zip(row, columns, strict=True)] for row in shown]


class _Mixed:
    """A value of a column whose values are of any type: equal to each cell that may show it.

    Numbers of such a column may be in quotes in the CSV, and are text in Parquet; an integer may be a double there.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Any) -> None:
        self.raw = value
        self.value = base64.b64encode(value).decode() if isinstance(value, bytes) else value

    def __repr__(self) -> str:
        return f"{self.value!r} of any type"

    def __eq__(self, cell: object) -> bool:
        if isinstance(cell, bytes):  # of a Parquet column that has bytes only
            return cell == self.raw
        in_csv, in_quotes = isinstance(cell, tuple), False
        if isinstance(cell, tuple):
            cell, in_quotes = cell
        if self.value is None:
            return cell is None or (in_csv and (cell, in_quotes) == ("", False))
        if isinstance(self.value, str):
            return cell == self.value and type(cell) is str and in_quotes is in_csv
        if cell is None:  # JSON has no such number
            return not math.isfinite(self.value)
        if isinstance(self.value, int) and abs(self.value) > 2**53:
            return str(cell) == str(self.value)
        return float(str(cell)) == self.value


class _Shown:
    """A value that the database shows as a text: equal to each cell that may show it."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"{self.text!r} as the database shows it"

    def __eq__(self, cell: object) -> bool:
        if isinstance(cell, tuple):
            return self.has_csv_form(*cell)
        return cell is None if self.text is None else self.has_form(cell)

    def has_csv_form(self, cell: str, in_quotes: bool) -> bool:
        """Return True if a cell of CSV may show the value."""
        return (cell, in_quotes) == (("", False) if self.text is None else (self.text, True))

    def has_form(self, cell: object) -> bool:
        """Return True if a value of JSON or Parquet may show the value, which is not NULL."""
        return str(cell) == self.text


class _Decimal(_Shown):
    """A decimal: a number, or a text if there is NaN near it."""

    def has_form(self, cell: object) -> bool:
        return f"{cell:f}" == self.text if isinstance(cell, Decimal) else str(cell) == self.text


class _WideTime(_Shown):
    """A timestamp: as others are, or as the database shows it if there is one beyond the calendar near it."""

    def has_csv_form(self, cell: str, in_quotes: bool) -> bool:
        if self.text is None or in_quotes:
            return super().has_csv_form(cell, in_quotes)
        return self.has_form(datetime.fromisoformat(cell))

    def has_form(self, cell: object) -> bool:
        if isinstance(cell, str) and cell != self.text:
            cell = datetime.fromisoformat(cell)
        return cell == self.text if isinstance(cell, str) else str(cell) == self._microseconds()

    def _microseconds(self) -> str:
        """Return the text with six digits of the second, or without any if all are 0: as Python shows it."""
        begin, point, digits = (self.text or "").partition(".")
        return begin + (point + digits.ljust(6, "0") if point else "")


class _Number(str):
    """A number of JSON, as it is written."""


def _unchanged(value: Any) -> Any:
    return value


def _nested(text: Any) -> Any:
    return json.loads(text, parse_float=_Number, parse_int=_Number)


def _csv_rows(text: str) -> list[list[tuple[str, bool]]]:
    """Return cells as text, and whether each is in quotes."""
    rows: list[list[tuple[str, bool]]] = [[]]
    end = 0
    while end < len(text):
        found = _CELL.match(text, end)
        assert found is not None, f"not CSV: {text[end : end + 50]!r}"
        quoted, plain, mark = found.groups()
        rows[-1].append((plain, False) if quoted is None else (quoted.replace('""', '"'), True))
        end = found.end()
        if mark == "\n":
            rows.append([])
    assert not rows[-1], "the last line has no end"
    return rows[:-1]


def _csv_cell(value: Any, column: Column) -> tuple[str, bool]:
    if isinstance(value, (_Mixed, _Shown)):
        return value  # type: ignore[return-value]
    if value is None:
        return "", False
    forms: dict[str, Callable[[Any], tuple[str, bool]]] = {
        "bytes": lambda value: (base64.b64encode(value).decode(), True),
        "text": lambda value: (value, True),
        "json": lambda value: (value, True),
        "truth": lambda value: (str(value).lower(), False),
        "time": lambda value: (value.isoformat(" ", "microseconds"), False),
        "zoned": lambda value: (value.isoformat(" ", "microseconds").replace("+00:00", "Z"), False),
    }
    return forms.get(column.family, lambda value: (str(value), False))(value)


def _json_value(value: Any, column: Column) -> Any:
    if isinstance(value, (_Mixed, _Shown)):
        return value
    if value is None or (column.family == "real" and not math.isfinite(value)):
        return None
    forms: dict[str, Callable[[Any], Any]] = {
        "bytes": lambda value: base64.b64encode(value).decode(),
        "integer": _Number,
        "real": _Number,
        "json": _nested,
    }
    has_iso_form = column.family in ("date", "time", "zoned")
    return value.isoformat() if has_iso_form else forms.get(column.family, lambda value: value)(value)


def _same(value: Any, column: Column) -> Any:
    return value


def _same_float(value: Any, column: Column) -> Any:
    """Return floats as Python writes them: 1e16 and 1e+16 are the same bits."""
    if column.family != "real" or value in (None, ("", False), ("", True)):
        return value
    if isinstance(value, tuple):
        assert not value[1], "a number is in quotes"
        value = value[0]
    return repr(float(value))
