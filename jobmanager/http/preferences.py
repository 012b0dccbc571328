"""Read the headers by which a client states conditions and preferences: If-Match and Prefer."""

from __future__ import annotations

import re

from flask import request

from jobmanager.errors import InvalidRequest
from jobmanager.http.errors import IF_MATCH
from jobmanager.http.schemas import response_models

#: The longest wait that a request may ask for.
MOST_WAIT_SECONDS = 30
#: The longest headers that are parsed, in characters.
_LONGEST_PREFER = 1000
_LONGEST_IF_MATCH = 4000

_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;[^,]*)?(?=,|$)', re.IGNORECASE)


def preferred_wait() -> int:
    """Return the wait that the client prefers (`Prefer: wait=N`, RFC 7240 §4.3), from 0 to MOST_WAIT_SECONDS.

    Returns 0 if the client states no wait.
    """
    header = ",".join(request.headers.getlist("Prefer"))
    if len(header) > _LONGEST_PREFER:
        return 0  # a server may ignore a preference: RFC 7240 §2
    preferred = _WAIT.search(header)
    return min(MOST_WAIT_SECONDS, int(preferred[1])) if preferred else 0


def expected_versions() -> set[str] | None:
    """Return the job versions that `If-Match` names (RFC 9110 §13.1.1); None if the header is missing or `*`.

    Ignores the progress in each tag: saving a checkpoint does not change the version. Raises InvalidRequest if the
    header is too long.
    """
    header = request.headers.get("If-Match", "")
    if len(header) > _LONGEST_IF_MATCH:
        raise InvalidRequest(f"If-Match has at most {_LONGEST_IF_MATCH} characters.", field=IF_MATCH)
    tags = request.if_match
    if not header or tags.star_tag:
        return None
    # Werkzeug returns None for an empty tag.
    return {response_models.version_of(tag) for tag in tags.as_set() if tag is not None}
