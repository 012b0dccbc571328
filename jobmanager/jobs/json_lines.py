"""Rows as lines of JSON, column by column: in C++, and without the interpreter lock.

Values of rare types are written one by one, by orjson.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

#: What JSON wants escaped in a text (RFC 8259, 7), in the order of replacement; other control characters are rare.
_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
_NEEDS_ESCAPE = r'[\x00-\x1f"\\]'
_IS_RARE = r"[\x00-\x08\x0b\x0c\x0e-\x1f]"


def json_lines(rows: pa.RecordBatch) -> memoryview:
    """Return a line for each row: an object with a member for each column, in their order."""
    parts: list[Any] = []
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        parts += [f"{',' if parts else '{'}{orjson.dumps(name).decode()}:", _values(column)]
    lines = pc.binary_join_element_wise(*parts, "}\n", "")
    size = pc.sum(pc.binary_length(lines)).as_py() or 0
    return memoryview(lines.buffers()[2] or b"")[:size]


def _values(column: pa.Array) -> pa.Array:
    """Return each value as a text of JSON."""
    kind = column.type
    if pa.types.is_floating(kind):
        # JSON has no infinity and nothing that is not a number.
        found = pc.if_else(pc.is_finite(column), column, None).cast(pa.string())
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        found = column.cast(pa.string())
    elif pa.types.is_string(kind) and not pc.any(pc.match_substring_regex(column, _IS_RARE)).as_py():
        found = pc.binary_join_element_wise('"', _escaped(column), '"', "")
    else:
        return pa.array([orjson.dumps(value, default=_plain).decode() for value in column.to_pylist()], pa.string())
    return pc.fill_null(found, "null")


def _escaped(texts: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, _NEEDS_ESCAPE)).as_py():
        for character, escape in _ESCAPES:
            texts = pc.replace_substring(texts, character, escape)
    return texts


def _plain(value: Any) -> str:
    """Return what JSON has no form for: bytes in base64, anything else as text."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
