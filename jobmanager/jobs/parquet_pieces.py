"""Parquet in pieces: each is a complete file, appended to those before it; one list at the end names all row groups.

The format allows that: the list tells where each row group is, and nothing has to adjoin. The lists in between, those
of the pieces, are there for whoever makes the last one. Knows nothing of parts and their names.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

#: What a Parquet file begins and ends with. Before the end stands the length of its list, in four bytes.
_MAGIC = b"PAR1"
_TAIL = 8
#: Whether texts are worth a dictionary is seen from so many: if they are not, it costs more than all else.
_SEEN = 1_000


def piece(rows: pa.Table, at: int) -> bytes:
    """Return a file of these rows, one row group if there are any, to be appended to others of *at* bytes."""
    # Arrow takes the places from its file: it gets one in memory, that begins with a hole as long as what is there.
    with open(os.memfd_create("piece"), "r+b", buffering=0) as memory:
        memory.truncate(at)
        with pa.OSFile(f"/proc/self/fd/{memory.fileno()}", "ab") as sink:
            # It would not begin in the middle of a file; what it writes from here is appended all the same.
            os.lseek(sink.fileno(), 0, os.SEEK_SET)
            with pa.parquet.ParquetWriter(sink, rows.schema, use_dictionary=_repetitive(rows)) as writer:
                if rows.num_rows:
                    writer.write_table(rows, row_group_size=rows.num_rows)
        memory.seek(at)
        return memory.read()


def list_of_all(descriptor: int, length: int, on_piece: Callable[[], None]) -> pa.Buffer:
    """Return what makes one file of the pieces that an open file of that *length* consists of.

    The first piece has to be one without rows. Calls *on_piece* now and then.
    """
    ends = [length]
    while (found := _list_before(descriptor, ends[-1])).num_row_groups:
        ends.append(_beginning(descriptor, found.row_group(0).column(0)))
        on_piece()
    # The first list grows. The others are read again, for all of them at once would take much room.
    for end in reversed(ends[:-1]):
        found.append_row_groups(_list_before(descriptor, end))
        on_piece()
    sink = pa.BufferOutputStream()
    found.write_metadata_file(sink)
    return sink.getvalue()


def _list_before(descriptor: int, end: int) -> pa.parquet.FileMetaData:
    size = int.from_bytes(os.pread(descriptor, 4, end - _TAIL), "little") + _TAIL
    return pa.parquet.read_metadata(pa.BufferReader(os.pread(descriptor, size, end - size)))


def _beginning(descriptor: int, first_column: pa.parquet.ColumnChunkMetaData) -> int:
    """Return where the piece begins that has this column first."""
    pages = [first_column.dictionary_page_offset, first_column.data_page_offset]
    begin = int(min(page for page in pages if page is not None)) - len(_MAGIC)
    assert os.pread(descriptor, len(_MAGIC), begin) == _MAGIC, "Arrow counts places in another way than it did"
    return begin


def _repetitive(rows: pa.Table) -> list[str]:
    """Return the columns worth a dictionary: texts that occur again and again. One of numbers often takes more room."""
    seen = rows.slice(0, _SEEN)
    texts = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    return [name for name in texts if 2 * pc.count_distinct(seen[name], mode="all").as_py() <= seen.num_rows]
