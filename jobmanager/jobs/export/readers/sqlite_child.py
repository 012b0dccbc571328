"""The child process that reads a SQLite dataset. sqlite_process.py starts and kills it.

Requests are lines of JSON on the standard input. Answers go to the standard output. An answer is the length of a header
in four bytes, the header in JSON, and an Arrow IPC stream, whose number of bytes is the header's "size". The child ends
with its parent: if the input ends, the child exits at once, even while a statement runs. The child imports little,
because it is started for each export.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any, BinaryIO

import pyarrow as pa

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.dates import DateFormat
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.sqlite import SqliteReader


class _LogCollector(logging.Handler):
    """Collects log messages, to send them with the answer: the parent process writes them to the service's log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Store the message, with the traceback if there is one."""
        self.lines.append(self.format(record))


def main() -> None:
    """Answer requests until the input ends."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_queue_requests, args=(sys.stdin.buffer, requests), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # other output must not mix with the answers
    collector = _LogCollector()
    logging.getLogger().addHandler(collector)
    server = Server()
    while True:
        collector.lines.clear()
        header, body = server.answer(json.loads(requests.get()))
        head = json.dumps(header | {"logged": collector.lines, "size": len(body)}).encode()
        _write(answers, len(head).to_bytes(4, "big") + head)
        _write(answers, body)


class Server:
    """Answers requests by calling a reader, which the first request opens."""

    def __init__(self) -> None:
        self._reader: SqliteReader | None = None

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the header and the body of the answer to a request. Does not raise: an error becomes an answer."""
        try:
            return self._call(**request)
        except (Fatal, DatasetAway) as error:
            return {"error": "fatal" if isinstance(error, Fatal) else "away", "message": str(error)}, b""
        except Exception as error:
            logging.getLogger(__name__).error("%s", traceback.format_exc())
            return {"error": "other", "message": type(error).__name__}, b""

    def _call(self, method: str, args: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        if method == "open":
            self._reader = _open_reader(**args)
            return {"value": None}, b""
        assert self._reader is not None, "the first request opens the reader"
        call: Callable[..., Any] = getattr(self._reader, method)
        found = call(**{name: _CONVERSIONS.get(name, _unchanged)(value) for name, value in args.items()})
        if method == "read":
            rows, place = found
            return {"value": place.to_json() if place else None}, _stream(rows)
        if method == "count":
            counted, place = found
            return {"value": [counted, place.to_json() if place else None]}, b""
        return {"value": found}, b""


def _open_reader(
    dataset: dict[str, Any], database: str, declared: dict[str, str], as_text: list[str] | None
) -> SqliteReader:
    date_format = DateFormat(dataset["date_format"]) if dataset["date_format"] else None
    # The reader uses only this attribute of a URL. Importing SQLAlchemy's URL would take a third of a second.
    url = SimpleNamespace(database=database)
    reader = SqliteReader(Dataset(**dataset | {"url": url, "date_format": date_format}), declared)
    if as_text is not None:
        reader.fix_types(as_text)
    return reader


def _unchanged(value: Any) -> Any:
    return value


#: Conversions for arguments of types that JSON lacks.
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "begin": datetime.fromisoformat,
    "end": datetime.fromisoformat,
    "after": lambda kept: Place.from_json(kept) if kept else None,
}


def _stream(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sink.getvalue()


def _queue_requests(source: BinaryIO, requests: queue.SimpleQueue[bytes]) -> None:
    for line in source:
        requests.put(line)
    os._exit(0)  # not sys.exit: a statement may run in the other thread


def _write(target: Any, data: Any) -> None:
    left = memoryview(data)
    while left.nbytes:
        left = left[target.write(left) :]
