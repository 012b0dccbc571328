"""How rows are written: the bytes of each format, chunk by chunk, so that they do not depend on where it was halted."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from jobmanager.errors import Fatal
from jobmanager.jobs.json_lines import json_lines
from jobmanager.jobs.parquet_pieces import list_of_all, piece
from jobmanager.jobs.part import Claim, Part, PartDamaged, sha256, sync_folder
from jobmanager.jobs.reader_errors import NOT_FOR_PARQUET

#: How much is made JSON at once: Arrow keeps at most 2 GiB of text in an array, and JSON may be longer by far.
_BYTES_AT_ONCE = 64 * 1024 * 1024
#: How many rows are made CSV at once: what comes of them is small enough to use the same memory again and again.
_ROWS_AT_ONCE = 8_000


class Encoding(Protocol):
    """One format of an export."""

    #: of the file as it is downloaded
    extension: str
    media_type: str
    #: of the part file, which may hold the rows in another form until they are all there
    part_extension: str

    def head(self, schema: pa.Schema) -> Any:
        """Return the bytes a part begins with."""

    def body(self, rows: pa.Table, at: int) -> Iterator[Any]:
        """Yield the bytes of a chunk of rows, piece by piece; *at* is where it begins in the part."""

    def finish(self, part: Part, target: Path, on_chunk: Callable[[], None]) -> str:
        """Make the file that is downloaded from a complete part, durably; calls *on_chunk* now and then.

        Returns the SHA-256 of the file in hexadecimal.
        """

    def digest(self, file: Path, rows: int, claimed: Claim, on_block: Callable[[], None]) -> str:
        """Return the SHA-256 of a finished file, of so many rows, in hexadecimal; calls *on_block* now and then.

        Raises PartDamaged where it is not what was made of what is *claimed* of the part.
        """


def _give_name(part: Part, target: Path) -> str:
    """Give a part that is complete and synced its name, durably; returns its SHA-256."""
    os.replace(part.path, target)
    sync_folder(target.parent)
    return part.sha256


class _AsItIs:
    """A format of which the part is the file already."""

    def finish(self, part: Part, target: Path, on_chunk: Callable[[], None]) -> str:
        """Give the part its name."""
        return _give_name(part, target)

    def digest(self, file: Path, rows: int, claimed: Claim, on_block: Callable[[], None]) -> str:
        """Return the SHA-256 of a file that begins with what is claimed."""
        return sha256(file, on_block, begins_with=claimed)


class Csv(_AsItIs):
    """Comma-separated values (RFC 4180, but for line ends of \\n).

    Text in quotes, so that "" differs from no value, which is nothing; bytes in base64.
    """

    extension = "csv"
    part_extension = "csv"
    media_type = "text/csv; charset=utf-8"

    def head(self, schema: pa.Schema) -> Any:
        """Return the line of names."""
        return _csv(schema.empty_table(), include_header=True)

    def body(self, rows: pa.Table, at: int) -> Iterator[Any]:
        """Yield a line for each row."""
        for begin in range(0, rows.num_rows, _ROWS_AT_ONCE):
            yield _csv(rows.slice(begin, _ROWS_AT_ONCE), include_header=False)


class JsonLines(_AsItIs):
    """One JSON object a line; dates as ISO text, bytes in base64, null for numbers JSON lacks (NaN, infinity)."""

    extension = "jsonl"
    part_extension = "jsonl"
    media_type = "application/x-ndjson"

    def head(self, schema: pa.Schema) -> Any:
        """Return nothing: every line is complete."""
        return b""

    def body(self, rows: pa.Table, at: int) -> Iterator[Any]:
        """Yield a line for each row."""
        rows_at_once = max(1, _BYTES_AT_ONCE * rows.num_rows // max(1, rows.nbytes))
        yield from map(json_lines, rows.to_batches(max_chunksize=rows_at_once))


class Parquet:
    """Apache Parquet, a row group for each chunk.

    A Parquet file ends with a list of its row groups, and cannot be cut back to fewer of them. So each chunk is a file,
    with a list of its own, and at the end one more list tells of them all: see parquet_pieces.py.
    """

    extension = "parquet"
    part_extension = "parquet"
    media_type = "application/vnd.apache.parquet"

    def head(self, schema: pa.Schema) -> Any:
        """Return a file without rows, which tells the schema."""
        return piece(schema.empty_table(), 0)

    def body(self, rows: pa.Table, at: int) -> Iterator[Any]:
        """Yield a file that holds the rows as one row group; raises Fatal for values that Parquet lacks."""
        if reason := (rows.schema.metadata or {}).get(NOT_FOR_PARQUET):
            raise Fatal(reason.decode())
        yield piece(rows, at)

    def finish(self, part: Part, target: Path, on_chunk: Callable[[], None]) -> str:
        """Append the list of all row groups, and give the part its name."""
        with open(part.path, "rb", buffering=0) as file:
            part.write(list_of_all(file.fileno(), part.length, on_chunk))
        part.sync()
        return _give_name(part, target)

    def digest(self, file: Path, rows: int, claimed: Claim, on_block: Callable[[], None]) -> str:
        """Return the SHA-256 of a file of so many rows that begins with what is claimed."""
        try:
            is_whole = pa.parquet.read_metadata(file).num_rows == rows
        except pa.ArrowInvalid:
            is_whole = False
        if not is_whole:
            raise PartDamaged("the file that was made of it is damaged")
        return sha256(file, on_block, begins_with=claimed)


ENCODINGS: dict[str, Encoding] = {"csv": Csv(), "jsonl": JsonLines(), "parquet": Parquet()}


def _csv(rows: pa.Table, *, include_header: bool) -> pa.Buffer:
    for index, field in enumerate(rows.schema):
        if pa.types.is_binary(field.type):
            texts = [None if value is None else _base64(value) for value in rows.column(index).to_pylist()]
            rows = rows.set_column(index, field.name, pa.array(texts, pa.string()))
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(rows, sink, pa.csv.WriteOptions(include_header=include_header, batch_size=rows.num_rows or 1))
    return sink.getvalue()


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
