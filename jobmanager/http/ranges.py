"""Serve files whole or as a single range of bytes; other ranges are ignored."""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

#: The only kind of Range header that is served: a single range of bytes, in at most this many characters.
_LONGEST_RANGE = 100
_ONE_RANGE = re.compile(r"bytes=\s*(\d+-\d*|-\d+)\s*")


def ignore_other_ranges() -> None:
    """Keep the Range header only if a GET asks for a single range of bytes (RFC 9110 §14.2).

    Without the header, the whole file is sent. Werkzeug would answer other ranges with 416.
    """
    header = request.headers.get("Range", "")
    if request.method != "GET" or len(header) > _LONGEST_RANGE or not _ONE_RANGE.fullmatch(header):
        request.environ.pop("HTTP_RANGE", None)


class FilesBlueprint(Blueprint):
    """A blueprint whose static files are served whole or as a single range."""

    def send_static_file(self, filename: str) -> Response:
        """Serve a static file."""
        ignore_other_ranges()
        return super().send_static_file(filename)
