"""How the bodies and parameters of requests are read.

What cannot be read is told without repeating it: it may hold what nobody else should see.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict

from jobmanager.errors import InvalidRequest, Unreadable
from jobmanager.json_values import MAX_DEPTH, is_deeper
from jobmanager.registry import invalid

Model = TypeVar("Model", bound=BaseModel)

_EXPONENT = re.compile(rb"\d[eE]")
_TOO_DEEP = f"arrays and objects in it lie more than {MAX_DEPTH} deep in each other"


def parse_object(body: bytes, example: str) -> dict[str, Any]:
    """Return the JSON object that *body* holds; raises Unreadable that says what is wrong, and shows the *example*."""
    value = _parse(body, example)
    if not isinstance(value, dict):
        raise Unreadable(f"The body must be a JSON object, not {kind(value)}. It looks like this: {example}.")
    return value


def parse_many(body: bytes, example: str) -> list[Any]:
    """Return the values of a JSON array, or of NDJSON: one a line; raises Unreadable."""
    if body.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"["):
        return list(_parse(body, example))
    lines = {number: line for number, line in enumerate(body.splitlines(), 1) if line.strip()}
    if not lines:
        raise Unreadable(f"The body is empty. Each line of it, or each part of an array, looks like this: {example}.")
    with contextlib.suppress(Unreadable):
        # As one array, which is read at once; a line that is no value of its own is told of by its number.
        values = list(_parse(b"[" + b",".join(lines.values()) + b"]", example))
        if len(values) == len(lines):
            return values
    return [_parse(line, example, line_number=number) for number, line in lines.items()]


def validated(model: type[Model], value: Any) -> Model:
    """Return the value as the model has it; raises InvalidRequest that names each field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None


def parse_query(model: type[Model], query: MultiDict[str, str]) -> Model:
    """Return the parameters of a query; raises InvalidRequest that names one that is wrong, or is there twice."""
    values: dict[str, Any] = {}
    for name, given in query.lists():
        field = model.model_fields.get(name)
        if field is not None and getattr(field.annotation, "__origin__", None) is list:
            values[name] = given
        elif len(given) > 1:
            raise InvalidRequest(f"{name} may be given once only.", field=name)
        else:
            values[name] = given[0]
    return validated(model, values)


def kind(value: Any) -> str:
    """Return what JSON calls a value of this kind.

    >>> kind([])
    'an array'
    """
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")


def _parse(body: bytes, example: str, *, line_number: int | None = None) -> Any:
    try:
        value = _decode(body.decode("utf-8-sig"))
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair can be written, but not stored
        if is_deeper(value, MAX_DEPTH):
            raise RecursionError
        if _EXPONENT.search(body):
            json.dumps(value, allow_nan=False)  # 1e999 is read as infinity
    except (ValueError, RecursionError) as error:
        where = "The body" if line_number is None else f"Line {line_number} of the body"
        fault = _fault(error, is_line=line_number is not None)
        raise Unreadable(f"{where} cannot be read: {fault}. It looks like this: {example}.") from None
    return value


def _refuse_constant(name: str) -> None:
    raise _Constant(name)


#: Made once: json.loads makes a decoder at every call that asks for anything unusual.
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


class _Constant(ValueError):
    """A number that JavaScript knows and JSON does not."""


def _fault(error: Exception, *, is_line: bool) -> str:
    """Return what is wrong with a body, or a line of it, without repeating it."""
    if isinstance(error, json.JSONDecodeError):
        line = "" if is_line else f"line {error.lineno}, "
        return f"{error.msg.lower()} at {line}column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "half of a surrogate pair is no text"
    if isinstance(error, _Constant):
        return f"{error} is no JSON"
    return _TOO_DEEP if isinstance(error, RecursionError) else "a number in it is too large"
