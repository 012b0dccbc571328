"""Parquet files that were appended to each other make one, once a list names all of their row groups."""

from __future__ import annotations

import io
import os
import tempfile
from datetime import UTC, date, datetime
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet
import pytest

from jobmanager.jobs.export.formats import ENCODINGS
from jobmanager.jobs.export.output_file import FilesUnusable
from jobmanager.jobs.export.parquet_pieces import combined_footer, piece

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("raw", pa.binary()),
    ]
)


def table(begin: int, rows: int) -> pa.Table:
    """Return rows of which each name is another, and each kind one of two."""
    numbers = range(begin, begin + rows)
    columns = [
        list(numbers),
        [f"name {number}" for number in numbers],
        [None if number % 5 == 0 else "ab"[number % 2] for number in numbers],
        [datetime(2024, 3, 9, number % 24, tzinfo=UTC) for number in numbers],
        [bytes([number % 256]) for number in numbers],
    ]
    return pa.table(columns, schema=SCHEMA)


def appended(sizes: list[int]) -> bytes:
    """Return pieces of so many rows each, one behind the other."""
    data = piece(SCHEMA.empty_table(), 0)
    for number, size in enumerate(sizes):
        data += piece(table(sum(sizes[:number]), size), len(data))
    return data


def whole(data: bytes, folder: Path) -> bytes:
    """Return them with the list that makes them one file."""
    path = folder / "pieces"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return data + bytes(combined_footer(descriptor, len(data), lambda: None))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("sizes", [[], [1], [7], [5, 1, 300], [2000] * 7], ids=str)
def test_the_pieces_become_one_file_with_a_row_group_for_each(sizes: list[int], tmp_path: Path) -> None:
    data = whole(appended(sizes), tmp_path)

    file = pa.parquet.ParquetFile(io.BytesIO(data))
    assert file.read() == table(0, sum(sizes))
    assert file.schema_arrow == SCHEMA
    assert [file.metadata.row_group(index).num_rows for index in range(len(sizes))] == sizes
    assert [file.read_row_group(index).num_rows for index in range(len(sizes))] == sizes


def test_the_list_does_not_depend_on_who_appended_which_piece(tmp_path: Path) -> None:
    first = appended([50, 50])

    again = first + piece(table(100, 30), len(first))

    assert whole(again, tmp_path) == whole(appended([50, 50, 30]), tmp_path)


def test_it_can_be_asked_between_the_pieces_whether_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "pieces").write_bytes(data := appended([10] * 5))
    descriptor = os.open(tmp_path / "pieces", os.O_RDONLY)
    asked: list[None] = []

    combined_footer(descriptor, len(data), lambda: asked.append(None))

    os.close(descriptor)
    assert len(asked) >= 5


def test_only_texts_that_occur_again_and_again_get_a_dictionary() -> None:
    group = pa.parquet.read_metadata(io.BytesIO(piece(table(0, 5000), 0))).row_group(0)

    has_dictionary = {group.column(index).path_in_schema: group.column(index).has_dictionary_page for index in range(5)}
    assert has_dictionary == {"id": False, "name": False, "kind": True, "at": False, "raw": False}


def test_every_reader_of_parquet_reads_the_same_values(tmp_path: Path) -> None:
    with localcontext(prec=100):
        longest = Decimal("9" * 38).scaleb(-10)
    at = datetime(2024, 3, 9, 12, 30, 0, 250_000)
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        "integer": (pa.int64(), [2**63 - 1, -(2**63), None]),
        "real": (pa.float64(), [0.1 + 0.2, 5e-324, None]),
        "truth": (pa.bool_(), [True, False, None]),
        "text": (pa.string(), ["naïve – 日本 🙂", "", None]),
        "raw": (pa.binary(), [b"\x00\xff", b"", None]),
        "short": (pa.decimal128(12, 2), [Decimal("1.50"), Decimal("-0.01"), None]),
        "long": (pa.decimal128(38, 10), [longest, longest.copy_negate(), None]),
        "naive": (pa.timestamp("us"), [at, datetime(1, 1, 1), None]),
        "zoned": (pa.timestamp("us", "UTC"), [at.replace(tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), None]),
        "day": (pa.date32(), [date(2024, 3, 9), date(9999, 12, 31), None]),
    }
    longer = pa.array([Decimal("9" * 76).scaleb(-40, Context(prec=100)), None, Decimal(0)], pa.decimal256(76, 40))
    rows = pa.table([pa.array(values, kind) for kind, values in columns.values()], names=list(columns))
    rows = rows.append_column("longer", longer)
    encoding = ENCODINGS["parquet"]
    data = bytes(encoding.head(rows.schema))
    for number in range(2):
        data += b"".join(encoding.body(rows.slice(number * 2, 2), len(data)))
    path = tmp_path / "all.parquet"
    path.write_bytes(whole(data, tmp_path))

    expected = {name: values for name, (_, values) in columns.items()}
    expected["longer"] = [f"{'9' * 36}.{'9' * 40}", None, f"0.{'0' * 40}"]
    assert pa.parquet.read_table(path).to_pydict() == expected
    assert polars.read_parquet(path).to_dict(as_series=False) == expected
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        found = database.read_parquet(str(path)).to_arrow_table()
    assert found.to_pydict() == expected
    assert found.schema.field("zoned").type == pa.timestamp("us", "UTC")
    assert found.schema.field("short").type == pa.decimal128(12, 2)


def test_a_piece_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    assert piece(table(0, 10), 1000)

    assert list(tmp_path.iterdir()) == []


def test_an_export_fails_with_the_reason_if_it_cannot_write_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    with pytest.raises(FilesUnusable, match=r"^A temporary file of the service cannot be written: No such file"):
        piece(table(0, 10), 1000)
