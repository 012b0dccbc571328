"""Filters for jobs, and how they are sent: as query parameters, or in a JSON body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypedDict

from jobmanager.core.states import Status


class Filters(TypedDict, total=False):
    """Filter for jobs. All given conditions must match."""

    #: any of these statuses
    status: Status | str | Iterable[Status | str] | None
    type: str | None
    #: all of these labels
    labels: Mapping[str, str] | None
    submitted_after: datetime | None
    submitted_before: datetime | None
    #: the start of an id (13 characters or more), a part of the type's name, or a label's value
    q: str | None


def query_of(filters: Filters) -> Sequence[tuple[str, str]]:
    """Return the filter as query parameters."""
    told: list[tuple[str, str]] = []
    for name, value in json_filter(filters).items():
        told += [(name, each) for each in ([value] if isinstance(value, str) else value)]
    return told


def json_filter(filters: Filters) -> dict[str, str | list[str]]:
    """Return the filter in the server's JSON format."""
    chosen: dict[str, str | list[str]] = {}
    if status := filters.get("status"):
        chosen["status"] = [str(each) for each in ([status] if isinstance(status, str) else status)]
    if labels := filters.get("labels"):
        chosen["label"] = [f"{name}:{value}" for name, value in labels.items()]
    if (type_name := filters.get("type")) is not None:
        chosen["type"] = type_name
    if (text := filters.get("q")) is not None:
        chosen["q"] = text
    for name, at in (("after", filters.get("submitted_after")), ("before", filters.get("submitted_before"))):
        if at is not None:
            chosen[f"submitted_{name}"] = at.isoformat()
    return chosen
