"""Parse the JSON of request bodies. The values are validated in validation.py.

Errors never quote a body that cannot be parsed: it may hold secrets.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from werkzeug.exceptions import RequestEntityTooLarge

from jobmanager.core.json_values import MAX_DEPTH, is_deeper
from jobmanager.errors import InvalidRequest, Unreadable
from jobmanager.http.json_arrays import ArrayReader, ItemTooLong

#: Most jobs in a batch, and most characters in each job. A body with a single job may have the same number of bytes.
MOST_JOBS = 100_000
LONGEST_JOB = 1024 * 1024
#: Lines of NDJSON are parsed in groups: a group ends after this many lines, or once it has more than _WINDOW bytes.
_MOST_LINES = 1000
_WINDOW = 256 * 1024

_EXPONENT = re.compile(rb"\d[eE]")
_BEGIN_OF_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\[")
#: A line of NDJSON that is not blank, without leading white space.
_LINE = re.compile(rb"[^ \t\r\n][^\r\n]*")
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


def read_once(stream: IO[bytes], most: int) -> bytearray:
    """Read a body into memory. Blocks. Raises RequestEntityTooLarge if the body has more than *most* bytes.

    Holds one copy of the body; Werkzeug would hold two while it reads.
    """
    body = bytearray()
    while piece := stream.read(_WINDOW):
        body += piece
        if len(body) > most:
            raise RequestEntityTooLarge
    return body


def parse_object(body: bytes, example: str) -> dict[str, Any]:
    """Return the JSON object in *body*. Raises Unreadable, which states the fault and shows the *example*."""
    value = _parse(body, example)
    if not isinstance(value, dict):
        raise Unreadable(f"The body must be a JSON object, not {json_type_name(value)}. Valid example: {example}.")
    return value


def parse_many(body: bytes | bytearray, example: str) -> Iterator[Any]:
    """Yield the values of a JSON array, or of NDJSON (one value per line).

    Raises Unreadable, or InvalidRequest if there are more than MOST_JOBS values or one is longer than LONGEST_JOB.
    Parses a part of the body at a time, because the objects may take thirty times the memory of their text.
    """
    count = 0
    is_array = _BEGIN_OF_ARRAY.match(body) is not None
    try:
        for some in _items_of(body, example) if is_array else _lines_of(body, example):
            count += len(some)
            if count > MOST_JOBS:
                text = f"A batch has at most {MOST_JOBS} jobs. Send the rest in another batch."
                raise InvalidRequest(text, field=str(MOST_JOBS))
            yield from some
            some.clear()  # free these before more are parsed: they may be large
    except ItemTooLong as error:
        text = f"Each job of a batch has at most {LONGEST_JOB} characters."
        raise InvalidRequest(text, field=str(error.number)) from None
    if not count and not is_array:
        raise Unreadable(f"The body is empty. Send an array of jobs, or one job per line. Valid example: {example}.")


def json_type_name(value: Any) -> str:
    """Return the name of the value's JSON type, with an article.

    >>> json_type_name([])
    'an array'
    """
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")


def _items_of(body: bytes | bytearray, example: str) -> Iterator[list[Any]]:
    """Yield the items of a JSON array, a list at a time. Raises Unreadable or ItemTooLong."""
    reader = ArrayReader(body, _decoder, longest=LONGEST_JOB)
    try:
        for some in reader:
            _check(some, has_escapes=reader.has_escapes, has_exponents=reader.has_exponents)
            yield some
    except (ValueError, RecursionError) as error:
        raise _unreadable(error, example) from None


def _lines_of(body: bytes | bytearray, example: str) -> Iterator[list[Any]]:
    """Yield the values of NDJSON, a list at a time. Raises Unreadable or ItemTooLong."""
    some: list[re.Match[bytes]] = []
    size = 0
    for number, line in enumerate(_LINE.finditer(body)):
        length = line.end() - line.start()
        if length > LONGEST_JOB:
            raise ItemTooLong(number)
        some.append(line)
        size += length
        if len(some) == _MOST_LINES or size > _WINDOW:
            yield _parse_lines(body, some, example)
            some, size = [], 0
    if some:
        yield _parse_lines(body, some, example)


def _parse_lines(body: bytes | bytearray, lines: list[re.Match[bytes]], example: str) -> list[Any]:
    with contextlib.suppress(Unreadable):
        # Parse the lines as one array, which is faster. If that fails, parse each line: the error then names the line.
        values = list(_parse(b"[" + b",".join([line[0] for line in lines]) + b"]", example))
        if len(values) == len(lines):
            return values
    return [_parse_line(body, line, example) for line in lines]


def _parse_line(body: bytes | bytearray, line: re.Match[bytes], example: str) -> Any:
    try:
        return _parse(line[0], example)
    except Unreadable:
        # Count the lines only now, for the error message. Counting them for each line would take quadratic time.
        end = line.start()
        number = 1 + body.count(b"\n", 0, end) + body.count(b"\r", 0, end) - body.count(b"\r\n", 0, end)
        return _parse(line[0], example, line_number=number)


def _parse(body: bytes, example: str, *, line_number: int | None = None) -> Any:
    try:
        value = _decoder.decode(body.decode("utf-8-sig"))
        _check(value, has_escapes=b"\\u" in body, has_exponents=_EXPONENT.search(body) is not None)
    except (ValueError, RecursionError) as error:
        raise _unreadable(error, example, line_number=line_number) from None
    return value


def _check(value: Any, *, has_escapes: bool, has_exponents: bool) -> None:
    """Raise ValueError or RecursionError if the value was parsed but cannot be stored."""
    if has_escapes:
        json.dumps(value, ensure_ascii=False).encode()  # an escaped lone surrogate can be parsed, but not stored
    if is_deeper(value, MAX_DEPTH):
        raise RecursionError
    if has_exponents:
        json.dumps(value, allow_nan=False)  # 1e999 is parsed as infinity


def _unreadable(error: Exception, example: str, *, line_number: int | None = None) -> Unreadable:
    where = "The body" if line_number is None else f"Line {line_number} of the body"
    fault = _fault(error, is_line=line_number is not None)
    return Unreadable(f"{where} cannot be read: {fault}. Valid example: {example}.")


def _refuse_constant(name: str) -> None:
    raise _Constant(name)


#: Created once: json.loads would create a decoder in each call that has an option.
_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


class _Constant(ValueError):
    """A constant of JavaScript that is not valid JSON: NaN or an infinity."""


def _fault(error: Exception, *, is_line: bool) -> str:
    """Return what is wrong with a body, or a line of it, without quoting it."""
    if isinstance(error, json.JSONDecodeError):
        line = "" if is_line else f"line {error.lineno}, "
        return f"{error.msg.lower()} at {line}column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not valid UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "half of a surrogate pair is not valid text"
    if isinstance(error, _Constant):
        return f"{error} is not valid JSON"
    return _TOO_DEEP if isinstance(error, RecursionError) else "a number in it is too large"
