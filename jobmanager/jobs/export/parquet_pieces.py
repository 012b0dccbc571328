"""Write Parquet in pieces: each is a complete file, appended to the others. One footer at the end lists all row groups.

The format allows this: a footer gives the offset of each row group, and row groups need not be adjacent. The last
footer is made from the footers of the pieces. This module does not deal with part files or their names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from jobmanager.jobs.export.output_file import FilesUnusable

#: A Parquet file begins and ends with these bytes. The four bytes before the final ones hold the footer's length.
_MAGIC = b"PAR1"
_TAIL = 8
#: Rows sampled to decide if texts get a dictionary. A useless dictionary costs more than all other work.
_SEEN = 1_000


def piece(rows: pa.Table, at: int) -> bytes:
    """Return a Parquet file with these rows, to be appended after *at* bytes.

    Without rows, the file has no row group. Makes the file in memory on Linux, elsewhere on disk. Raises FilesUnusable
    if the file cannot be written.
    """
    try:
        with _scratch_file() as (file, name):
            # Arrow counts offsets from the beginning of its file, so this file begins with a hole of *at* bytes.
            file.truncate(at)
            with pa.OSFile(name, "ab") as sink:
                # Arrow does not start in the middle of a file, so seek to 0. Append mode still writes at the end.
                os.lseek(sink.fileno(), 0, os.SEEK_SET)
                with pa.parquet.ParquetWriter(sink, rows.schema, use_dictionary=_repetitive(rows)) as writer:
                    if rows.num_rows:
                        writer.write_table(rows, row_group_size=rows.num_rows)
            file.seek(at)
            return bytes(file.read())
    except OSError as error:
        # Translated here: an OSError would be taken for an error of the job's own files.
        reason = error.strerror or "input or output failed"
        raise FilesUnusable(f"A temporary file of the service cannot be written: {reason}.") from None


@contextmanager
def _scratch_file() -> Iterator[tuple[Any, str]]:
    """Yield a temporary file and its path. The file is in memory on Linux, elsewhere on disk."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("piece"), "r+b", buffering=0) as memory:
            yield memory, f"/proc/self/fd/{memory.fileno()}"
        return
    with NamedTemporaryFile("r+b", buffering=0) as file:
        yield file.file, file.name


def combined_footer(descriptor: int, length: int, on_piece: Callable[[], None]) -> pa.Buffer:
    """Return the footer that turns an open file of pieces, *length* bytes long, into one Parquet file.

    The first piece must have no rows. Calls *on_piece* after each piece.
    """
    ends = [length]
    while (found := _footer_before(descriptor, ends[-1])).num_row_groups:
        ends.append(_beginning(descriptor, found.row_group(0).column(0)))
        on_piece()
    # The first footer gets the row groups of all others. Read the others again: keeping them all takes much memory.
    for end in reversed(ends[:-1]):
        found.append_row_groups(_footer_before(descriptor, end))
        on_piece()
    sink = pa.BufferOutputStream()
    found.write_metadata_file(sink)
    return sink.getvalue()


def _footer_before(descriptor: int, end: int) -> pa.parquet.FileMetaData:
    size = int.from_bytes(os.pread(descriptor, 4, end - _TAIL), "little") + _TAIL
    return pa.parquet.read_metadata(pa.BufferReader(os.pread(descriptor, size, end - size)))


def _beginning(descriptor: int, first_column: pa.parquet.ColumnChunkMetaData) -> int:
    """Return the offset of the piece that begins with this column chunk."""
    pages = [first_column.dictionary_page_offset, first_column.data_page_offset]
    begin = int(min(page for page in pages if page is not None)) - len(_MAGIC)
    assert os.pread(descriptor, len(_MAGIC), begin) == _MAGIC, "Arrow counts places in another way than it did"
    return begin


def _repetitive(rows: pa.Table) -> list[str]:
    """Return the columns worth a dictionary: repetitive texts. Numbers often take more room with a dictionary."""
    seen = rows.slice(0, _SEEN)
    texts = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    return [name for name in texts if 2 * pc.count_distinct(seen[name], mode="all").as_py() <= seen.num_rows]
