"""Columns whose values have several types, as SQLite allows: Arrow unions and their conversion to text. Pure."""

from __future__ import annotations

import base64

import pyarrow as pa
import pyarrow.compute as pc

#: Below this number, an integer and the equal double have the same text. From here on, a double is written as 2e+15.
_PLAIN_BELOW = 10**15
_NAMES = ("integer", "real", "text", "blob")
_INTEGER, _REAL, _TEXT, _BLOB = range(len(_NAMES))
_TYPES = (pa.int64(), pa.float64(), pa.string(), pa.binary())


def merged(integers: pa.Array, reals: pa.Array, texts: pa.Array, blobs: pa.Array) -> pa.Array:
    """Merge four columns, one for each type of value, into one. In each row, at most one of the four has a value.

    If all values have one type, the result has that type. A mixture of integers and reals becomes doubles if every
    integer has the same text as a double. All other mixtures become a union.
    """
    parts = (integers, reals, texts, blobs)
    used = [code for code, part in enumerate(parts) if part.null_count < len(part)]
    if len(used) <= 1:
        return parts[used[0] if used else _INTEGER]
    if used == [_INTEGER, _REAL] and is_plain(integers):
        return pc.coalesce(reals, integers.cast(pa.float64()))
    codes = pa.array([_INTEGER] * len(integers), pa.int8())
    for code in (_REAL, _TEXT, _BLOB):
        codes = pc.if_else(parts[code].is_valid(), pa.scalar(code, pa.int8()), codes)
    return pa.UnionArray.from_sparse(codes, list(parts), list(_NAMES))


def joined(pieces: list[pa.Array]) -> pa.ChunkedArray:
    """Return the concatenated pieces of a column, as if all their rows had been merged at once."""
    kinds = {piece.type for piece in pieces if has_value(piece)} or {pieces[0].type}
    if len(kinds) == 1:
        (kind,) = kinds
        return pa.chunked_array([piece if has_value(piece) else pa.nulls(len(piece), kind) for piece in pieces], kind)
    parts = [_parts(piece) for piece in pieces]
    return pa.chunked_array([merged(*(pa.concat_arrays([part[code] for part in parts]) for code in range(4)))])


def has_value(column: pa.Array) -> bool:
    """Return True if the column has a value that is not NULL."""
    return bool(pa.types.is_union(column.type) or column.null_count < len(column))


def is_plain(numbers: pa.Array) -> bool:
    """Return True if every number has the same text as an integer and as a double."""
    found = pc.min_max(numbers).as_py()
    return found["min"] is None or (found["min"] > -_PLAIN_BELOW and found["max"] < _PLAIN_BELOW)


def text_bytes(column: pa.Array) -> pa.Array:
    """Return the number of bytes of each text or blob; 0 for other values."""
    if pa.types.is_union(column.type):
        return pc.add(*(text_bytes(column.field(code)) for code in (_TEXT, _BLOB)))
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        return pc.fill_null(pc.binary_length(column), 0).cast(pa.int64())
    return pa.array([0], pa.int64()).take(pa.nulls(len(column), pa.int64()).fill_null(0))


def as_texts(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return each value as text: numbers in digits, blobs in base64."""
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([as_texts(chunk) for chunk in column.chunks], pa.string())
    if pa.types.is_union(column.type):
        return pc.coalesce(*(as_texts(part) for part in _parts(column)))
    if pa.types.is_binary(column.type):
        texts = [None if value is None else base64.b64encode(value).decode("ascii") for value in column.to_pylist()]
        return pa.array(texts, pa.string())
    return column.cast(pa.string())


def _parts(column: pa.Array) -> list[pa.Array]:
    """Return four columns, one for each type, from which `merged` makes this column."""
    if pa.types.is_union(column.type):
        codes = column.type_codes
        return [
            pc.if_else(pc.equal(codes, pa.scalar(code, pa.int8())), column.field(code), pa.scalar(None, kind))
            for code, kind in enumerate(_TYPES)
        ]
    return [column if column.type == kind and has_value(column) else pa.nulls(len(column), kind) for kind in _TYPES]
