"""Convert rows to lines of JSON, column by column: in C++, without the GIL.

Values of rare types are converted one by one, by orjson. A field with the JSON metadata holds JSON texts. They are
nested unchanged: their numbers are not parsed, and keep all digits.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from jobmanager.jobs.export.readers.errors import InvalidJson
from jobmanager.jobs.export.texts import decimal_texts, time_texts

#: Characters to escape in a JSON string (RFC 8259, section 7), in order of replacement. Other control characters are
#: rare: texts that have one are converted by orjson.
_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
_NEEDS_ESCAPE = r'[\x00-\x1f"\\]'
_IS_RARE = r"[\x00-\x08\x0b\x0c\x0e-\x1f]"


#: The metadata of a field whose texts are JSON.
_JSON = (b"jobmanager", b"json")


def json_lines(rows: pa.RecordBatch) -> memoryview:
    """Return one line for each row: an object with a member for each column, in order.

    Raises InvalidJson if a text in a JSON field is not valid JSON.
    """
    parts: list[Any] = []
    for field, column in zip(rows.schema, rows.columns, strict=True):
        values = _nested(field.name, column) if _JSON in (field.metadata or {}).items() else _values(column)
        parts += [f"{',' if parts else '{'}{orjson.dumps(field.name).decode()}:", values]
    lines = pc.binary_join_element_wise(*parts, "}\n", "")
    size = pc.sum(pc.binary_length(lines)).as_py() or 0
    return memoryview(lines.buffers()[2] or b"")[:size]


def _values(column: pa.Array) -> pa.Array:
    """Return each value as JSON text."""
    kind = column.type
    if pa.types.is_floating(kind):
        # JSON has no infinity and no NaN.
        found = pc.if_else(pc.is_finite(column), column, None).cast(pa.string())
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        found = column.cast(pa.string())
    elif pa.types.is_string(kind) and not pc.any(pc.match_substring_regex(column, _IS_RARE)).as_py():
        found = pc.binary_join_element_wise('"', _escaped(column), '"', "")
    elif pa.types.is_decimal(kind):
        found = decimal_texts(column)
    elif pa.types.is_date32(kind):
        found = pc.binary_join_element_wise('"', column.cast(pa.string()), '"', "")
    elif pa.types.is_timestamp(kind) and kind.unit == "us":
        found = _iso_times(column)
    else:
        return pa.array([orjson.dumps(value, default=_plain).decode() for value in column.to_pylist()], pa.string())
    return pc.fill_null(found, "null")


def _iso_times(column: pa.Array) -> pa.Array:
    """Return timestamps as datetime.isoformat writes them. A fraction that is zero is left out."""
    texts = pc.replace_substring(time_texts(column), " ", "T")
    if pc.any(pc.ends_with(texts, ".000000")).as_py():
        texts = pc.replace_substring_regex(texts, r"\.000000$", "")
    return pc.binary_join_element_wise('"', texts, "" if column.type.tz is None else "+00:00", '"', "")


def _nested(name: str, column: pa.Array) -> pa.Array:
    """Return each JSON text on one line. Raises InvalidJson if a text is not valid JSON."""
    texts = column.cast(pa.string())
    for row, text in enumerate(texts.to_pylist()):
        if text is not None and not _is_json(text):
            raise InvalidJson(name, row)
    # A valid JSON string contains no line breaks. So all line breaks are between tokens, where a blank means the same.
    return pc.fill_null(pc.replace_substring_regex(texts, r"[\r\n]", " "), "null")


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return _is_rare_json(text)
    return True


def _is_rare_json(text: str) -> bool:
    """Return True for JSON that databases accept but orjson does not, such as half of a surrogate pair."""
    try:
        json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _escaped(texts: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, _NEEDS_ESCAPE)).as_py():
        for character, escape in _ESCAPES:
            texts = pc.replace_substring(texts, character, escape)
    return texts


def _plain(value: Any) -> str:
    """Return the string for a value of a type that JSON lacks: base64 for bytes, str() for all others."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
