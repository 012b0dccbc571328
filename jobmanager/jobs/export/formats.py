"""The formats of an export. Chunks are encoded one by one, so that halts do not change the bytes of the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from jobmanager.durable import sync_folder
from jobmanager.errors import Fatal
from jobmanager.jobs.export.json_lines import json_lines
from jobmanager.jobs.export.mixed_columns import as_texts
from jobmanager.jobs.export.output_file import Claim, Part, PartDamaged, sha256
from jobmanager.jobs.export.parquet_pieces import combined_footer, piece
from jobmanager.jobs.export.readers.chunk_table import NOT_FOR_PARQUET
from jobmanager.jobs.export.readers.errors import InvalidJson
from jobmanager.jobs.export.texts import decimal_texts, time_texts

#: Bytes of rows to convert to JSON at once. JSON may be much longer, and an Arrow array holds at most 2 GiB of text.
BYTES_AT_ONCE = 64 * 1024 * 1024
#: Rows to convert to CSV at once: so few that each result reuses the memory of the previous result.
_ROWS_AT_ONCE = 8_000


class Encoding(Protocol):
    """One format of an export: encodes chunks, and turns a complete part into the file for download."""

    #: extension of the names of the part and of the file for download, without a dot
    extension: str
    media_type: str
    #: True if all values of a column must have the same type
    has_types: bool

    def head(self, schema: pa.Schema) -> Any:
        """Return the first bytes of a part."""

    def body(self, rows: pa.Table, at: int) -> Iterator[Any]:
        """Yield the bytes of a chunk of rows in pieces; *at* is the offset of the chunk in the part."""

    def notes(self, schema: pa.Schema) -> list[str]:
        """Return sentences for the client on facts that the file itself does not show; empty if there are none."""

    def finish(self, part: Part, target: Path, on_chunk: Callable[[], None]) -> str:
        """Turn a complete part into the file for download, durably. Calls *on_chunk* repeatedly.

        Returns the SHA-256 of the file in hexadecimal.
        """

    def digest(self, file: Path, rows: int, claimed: Claim, on_block: Callable[[], None]) -> str:
        """Return the SHA-256 of a finished file with *rows* rows, in hexadecimal. Calls *on_block* after each block.

        Raises PartDamaged if the file was not made from the part that *claimed* describes.
        """


def _give_name(part: Part, target: Path) -> str:
    """Rename a complete and synced part to *target*, durably. Return its SHA-256."""
    os.replace(part.path, target)
    sync_folder(target.parent)
    return part.sha256


class _PartIsFile:
    """A format whose part is already the file."""

    has_types = False

    def notes(self, schema: pa.Schema) -> list[str]:
        """Return no notes: the file shows everything."""
        return []

    def finish(self, part: Part, target: Path, on_chunk: Callable[[], None]) -> str:
        """Rename the part to *target*, durably, and return its SHA-256. Does not call *on_chunk*: nothing is copied."""
        return _give_name(part, target)

    def digest(self, file: Path, rows: int, claimed: Claim, on_block: Callable[[], None]) -> str:
        """Return the SHA-256 of a finished file. Raises PartDamaged if it does not begin with the claimed bytes."""
        return sha256(file, on_block, begins_with=claimed)


class Csv(_PartIsFile):
    """Comma-separated values (RFC 4180, except that lines end in \\n).

    Text and decimals are quoted, so that empty text, which is "", differs from NULL, which is an empty field. Bytes are
    in base64. With a single column, NULL is written as "" too, because many programs skip an empty line.
    """

    extension = "csv"
    media_type = "text/csv; charset=utf-8"

    def head(self, schema: pa.Schema) -> Any:
        """Return the header line."""
        return _written(schema.empty_table(), include_header=True)

    def body(self, rows: pa.Table, at: int) -> Iterator[Any]:
        """Yield one line for each row."""
        for begin in range(0, rows.num_rows, _ROWS_AT_ONCE):
            yield _csv(rows.slice(begin, _ROWS_AT_ONCE))

    def notes(self, schema: pa.Schema) -> list[str]:
        """Return a note if NULL and empty text look the same, otherwise no notes."""
        if len(schema) != 1 or not (pa.types.is_string(schema[0].type) or pa.types.is_binary(schema[0].type)):
            return []
        return [f'The CSV has one column, {schema[0].name!r}, in which "" stands for NULL and for empty text.']


class JsonLines(_PartIsFile):
    """Lines of JSON, one object for each row.

    Dates are ISO text, and bytes are in base64. Numbers that JSON lacks (NaN, infinity) become null. Decimals are
    numbers with all their digits. JSON columns are nested unchanged.
    """

    extension = "jsonl"
    media_type = "application/x-ndjson"

    def head(self, schema: pa.Schema) -> Any:
        """Return no bytes: there is no header."""
        return b""

    def body(self, rows: pa.Table, at: int) -> Iterator[Any]:
        """Yield lines of JSON, one for each row. Raises InvalidJson if a text in a JSON column is not valid JSON."""
        rows_at_once = max(1, BYTES_AT_ONCE * rows.num_rows // max(1, rows.nbytes))
        written = 0
        for batch in rows.to_batches(max_chunksize=rows_at_once):
            try:
                lines = json_lines(batch)
            except InvalidJson as error:
                raise InvalidJson(error.column, written + error.row) from None
            yield lines
            written += batch.num_rows


class Parquet:
    """Apache Parquet, with one row group for each chunk.

    A Parquet file ends with a footer that lists its row groups, so it cannot be truncated to fewer row groups.
    Therefore each chunk is a file with its own footer, and a final footer lists all row groups: see parquet_pieces.py.
    Decimals of more than 38 digits are written as text, because DuckDB reads them as doubles, and Polars not at all.
    """

    extension = "parquet"
    has_types = True
    media_type = "application/vnd.apache.parquet"

    def head(self, schema: pa.Schema) -> Any:
        """Return a file without rows, which holds the schema."""
        return piece(_readable(schema.empty_table()), 0)

    def body(self, rows: pa.Table, at: int) -> Iterator[Any]:
        """Yield a file that holds the rows as one row group. Raises Fatal for values that Parquet cannot hold."""
        if reason := (rows.schema.metadata or {}).get(NOT_FOR_PARQUET):
            raise Fatal(reason.decode())
        yield piece(_readable(rows), at)

    def notes(self, schema: pa.Schema) -> list[str]:
        """Return a note on the columns whose decimals are written as text, if there are any."""
        names = [repr(field.name) for field in schema if _is_long_decimal(field.type)]
        return [f"Decimals of more than 38 digits are text in Parquet: {', '.join(names)}."] if names else []

    def finish(self, part: Part, target: Path, on_chunk: Callable[[], None]) -> str:
        """Append the footer that lists all row groups, sync and rename the part."""
        with open(part.path, "rb", buffering=0) as file:
            part.write(combined_footer(file.fileno(), part.length, on_chunk))
        part.sync()
        return _give_name(part, target)

    def digest(self, file: Path, rows: int, claimed: Claim, on_block: Callable[[], None]) -> str:
        """Return the SHA-256 of a finished file.

        Raises PartDamaged if it does not have *rows* rows, or does not begin with the claimed bytes.
        """
        try:
            is_whole = pa.parquet.read_metadata(file).num_rows == rows
        except pa.ArrowInvalid:
            is_whole = False
        if not is_whole:
            raise PartDamaged("the file made from it is damaged")
        return sha256(file, on_block, begins_with=claimed)


ENCODINGS: dict[str, Encoding] = {"csv": Csv(), "jsonl": JsonLines(), "parquet": Parquet()}


def _readable(rows: pa.Table) -> pa.Table:
    """Return the rows with long decimals as text, so that every Parquet reader reads them exactly."""
    for index, field in enumerate(rows.schema):
        if _is_long_decimal(field.type):
            text = pa.field(field.name, pa.string(), metadata=field.metadata)
            rows = rows.set_column(index, text, decimal_texts(rows.column(index)))
    return rows


def _is_long_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind) and kind.precision > 38)


def _csv(rows: pa.Table) -> pa.Buffer | memoryview:
    for index, field in enumerate(rows.schema):
        if pa.types.is_binary(field.type) or pa.types.is_union(field.type):
            rows = rows.set_column(index, field.name, as_texts(rows.column(index)))
        elif pa.types.is_decimal(field.type):
            rows = rows.set_column(index, field.name, decimal_texts(rows.column(index)))
    if any(map(_has_zone, rows.schema.types)) or (rows.num_columns == 1 and rows.column(0).null_count):
        return _joined(rows)
    return _written(rows, include_header=False)


def _written(rows: pa.Table, *, include_header: bool) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(rows, sink, pa.csv.WriteOptions(include_header=include_header, batch_size=rows.num_rows or 1))
    return sink.getvalue()


def _joined(rows: pa.Table) -> memoryview:
    """Return the rows as CSV without Arrow's CSV writer.

    Arrow's writer is slow for times with a zone. For NULL in a single column, it would write an empty line.
    """
    null = '""' if rows.num_columns == 1 else ""
    parts: list[Any] = []
    between = ""
    for column in rows.combine_chunks().columns:
        before, texts, after = _cells(pa.concat_arrays(column.chunks))
        if column.null_count:
            # A NULL gets neither the prefix nor the suffix, so join both to the other values here.
            before, texts, after = "", pc.fill_null(pc.binary_join_element_wise(before, texts, after, ""), null), ""
        parts += [between + before, texts]
        between = after + ","
    lines = pc.binary_join_element_wise(*parts, between[:-1] + "\n", "")
    size = pc.sum(pc.binary_length(lines)).as_py() or 0
    return memoryview(lines.buffers()[2] or b"")[:size]


def _cells(column: pa.Array) -> tuple[str, pa.Array, str]:
    """Return a prefix, the values as texts, and a suffix. NULL gets neither the prefix nor the suffix."""
    if pa.types.is_string(column.type):
        return '"', pc.replace_substring(column, '"', '""'), '"'
    if _has_zone(column.type):
        return "", time_texts(column), "Z"
    return "", column.cast(pa.string()), ""


def _has_zone(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.tz is not None)
