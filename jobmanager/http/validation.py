"""Validate parsed bodies and query parameters against models, and name each wrong field. Parses no JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict

from jobmanager.errors import Fault, InvalidRequest
from jobmanager.registry import faults_of, first_faults, invalid, refusal_of, sentence_of

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], value: Any) -> Model:
    """Return the value as a model. Raises InvalidRequest, which names each wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None


def validated_each(model: type[Model], values: Iterable[Any]) -> Iterator[Model]:
    """Return an iterator that validates one value at a time, and keeps no value in memory.

    At the first invalid value, the iterator raises InvalidRequest. It searches the remaining values, too, but only for
    as many faults as the error can report. The name of each wrong field begins with the index of its value.
    """
    numbers, rest = itertools.count(), iter(values)

    def valid(value: Any) -> Model:
        number = next(numbers)
        try:
            return model.model_validate(value)
        except ValidationError:
            found = _faults_in(model, itertools.chain([(number, value)], zip(numbers, rest, strict=False)))
            faults = first_faults(found)
            more = "; and more" if next(found, None) else ""
            raise refusal_of(faults, sentence_of(faults) + more) from None

    # map, not a loop: the variable of a loop would keep a large value alive while the next one is parsed.
    return map(valid, rest)


def _faults_in(model: type[Model], numbered: Iterable[tuple[int, Any]]) -> Iterator[Fault]:
    """Yield the faults of numbered values. The path of each fault begins with the number of the value."""
    for number, value in numbered:
        try:
            model.model_validate(value)
        except ValidationError as error:
            for where, text in faults_of(error):
                yield (number, *where), text


def parse_query(model: type[Model], query: MultiDict[str, str]) -> Model:
    """Return the query parameters as a model. Raises InvalidRequest if one is wrong, or is repeated but not a list."""
    values: dict[str, Any] = {}
    for name, given in query.lists():
        field = model.model_fields.get(name)
        if field is not None and getattr(field.annotation, "__origin__", None) is list:
            values[name] = given
        elif len(given) > 1:
            raise InvalidRequest(f"{name} may be given only once.", field=name)
        else:
            values[name] = given[0]
    return validated(model, values)
