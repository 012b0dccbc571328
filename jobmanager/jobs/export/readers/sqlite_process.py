"""Read a SQLite dataset in a child process, so that ADBC's SQLite library never opens the file in this process.

When one SQLite library of a process closes a file, the kernel drops the locks that any other library of the process has
on that file: an application that embeds the service would lose its transactions. Source: "How To Corrupt An SQLite
Database File", 2.2.1. Killing the child ends a statement at once, and returns the memory to the system.
The child is spawned when it is first needed. See sqlite_child.py for the protocol on the pipes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pyarrow as pa

from jobmanager.errors import Fatal
from jobmanager.jobs.export.chunks import MAX_BYTES
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import ReaderClosed
from jobmanager.jobs.export.readers.errors import away_error
from jobmanager.jobs.export.readers.sqlite_columns import arrow_type
from jobmanager.jobs.export.schemas import check_table, schema_of
from jobmanager.jobs.export.thread_call import ThreadCall

#: Interval between two calls of on_wait.
_STEP_MILLISECONDS = 50
_BUSY_SECONDS = 5
_KILL_SECONDS = 5
_PIPE_BYTES = 1024 * 1024
#: The program of the child. Empty packages replace ours, whose imports take a second and are not needed by the child.
_BOOT = """
import sys, types
sys.path += sys.argv[2:]
for name in ("jobmanager", "jobmanager.jobs", "jobmanager.jobs.export", "jobmanager.jobs.export.readers"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [f"{sys.argv[1]}/{name.replace('.', '/')}"]
from jobmanager.jobs.export.readers.sqlite_child import main
main()
"""

_log = logging.getLogger(__name__)


class SqliteProcess:
    """A process that reads a SQLite file; see Reader."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        #: called repeatedly while waiting for the child; may raise, or close this reader
        self.on_wait: Callable[[], None] | None = None
        self._declared: dict[str, str] = {}
        self._as_text: list[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pending_request: bytes | None = None  # the request whose answer was not read yet
        self._is_closed = False

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column. Does not start the child."""
        if not self._declared:
            # Read in a thread, so that on_wait is called while the file is locked.
            self._declared = ThreadCall(self._read_declared, name="reads").start().result(self.on_wait)
            if self._is_closed:
                raise ReaderClosed
        columns = {name: arrow_type(declared) for name, declared in self._declared.items()}
        check_table(self._dataset, columns)
        return columns

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them."""
        kinds = self.columns()
        texts = {name: pa.string() for name in self._as_text or () if name in kinds}
        return schema_of(self._dataset, chosen, kinds | texts)

    def check(self) -> None:
        """Raise Fatal if the dataset cannot be exported exactly; see Reader."""
        self._call("check")

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return a warning if an index is missing, otherwise no warnings; see Reader."""
        return list(self._call("warnings", **_range(begin, end)))

    def identity(self) -> dict[str, str]:
        """Return the properties that affect the values or their order; see Reader."""
        return dict(self._call("identity"))

    def mixed_columns(self, columns: list[str], begin: datetime, end: datetime) -> list[str]:
        """Return the columns with values in [begin, end) that do not fit their type. A text column fits all values."""
        return list(self._call("mixed_columns", columns=columns, **_range(begin, end)))

    def fix_types(self, as_text: list[str]) -> None:
        """Fix the types of all later rows: text for the columns *as_text*; see FixesTypes."""
        self._as_text = list(as_text)
        if self._process is not None:
            self._call("fix_types", as_text=self._as_text)

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of [begin, end)."""
        return int(self._call("total", **_range(begin, end)))

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count the rows of [begin, end) after *after*, but only about *limit* of them; see Reader."""
        counted, place = self._call("count", after=_kept(after), **_range(begin, end), limit=limit)
        return counted, _place(place)

    def read(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows of [begin, end), and the place of the last one (None: no rows); see Reader."""
        place, body = self._exchange(_reading(columns, after, begin, end, limit, max_bytes))
        return pa.ipc.open_stream(body).read_all(), _place(place)

    def expect(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Request these rows from the child, which reads them while the previous rows are written. Does not wait."""
        if self._process is not None and self._pending_request is None and not self._is_closed:
            self._send(_reading(columns, after, begin, end, limit, max_bytes))

    def close(self) -> None:
        """Kill the child, even while it reads."""
        self._is_closed = True
        self._end()

    def _read_declared(self) -> dict[str, str]:
        """Return name and declared type of every column.

        Uses Python's SQLite library, as an application that embeds the service does. If one of its connections closes
        the file, the library keeps the locks of its other connections.
        """
        path, table = self._dataset.url.database or "", self._dataset.table.replace('"', '""')
        try:
            uri = f"file:{quote(path)}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection:
                rows = connection.execute(f'PRAGMA table_xinfo("{table}")').fetchall()
        except sqlite3.Error:
            raise away_error(self._dataset) from None
        # The last field is 1 for hidden columns of virtual tables: they serve queries, and hold no data.
        return {name: declared or "" for _, name, declared, _, _, _, hidden in rows if hidden != 1}

    # The child

    def _call(self, method: str, **args: Any) -> Any:
        return self._exchange(_request(method, args))[0]

    def _exchange(self, request: bytes) -> tuple[Any, pa.Buffer]:
        """Send a request and return the value and the body of its answer. Blocks.

        Raises DatasetAway, Fatal and the exceptions of on_wait.
        """
        self.columns()  # the child compares its table with these columns
        try:
            header, body = self._request_until_answered(request)
        except BaseException:
            # An answer, or a part of one, may be in the pipe: the child is unusable.
            self._end()
            raise
        if self._is_closed:
            self._end()
        return self._value(header), body

    def _request_until_answered(self, request: bytes) -> tuple[dict[str, Any], pa.Buffer]:
        """Return the answer to a request. If a halt kills the child meanwhile, sends the request to another child."""
        while True:
            try:
                process = self._ensure_started()
                if self._pending_request not in (None, request):
                    self._read_answer(process)  # discard the answer to a read that is no longer needed
                if self._pending_request is None:
                    self._send(request)
                return self._read_answer(process)
            except _Closed:
                continue

    def _value(self, header: dict[str, Any]) -> Any:
        for line in header["logged"]:
            _log.error("%s", line)
        if "error" not in header:
            return header["value"]
        if header["error"] == "fatal":
            raise Fatal(header["message"])
        if header["error"] == "away":
            raise DatasetAway(header["message"])
        raise RuntimeError(f"Reading dataset {self._dataset.name!r} failed: {header['message']}, see the log.")

    def _ensure_started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            folder = str(Path(__file__).parents[4])
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOT, folder, *filter(None, sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    # A signal to the service's process group must not reach the child, which the service ends itself.
                    start_new_session=True,
                )
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise DatasetAway(
                    f"The process that reads dataset {self._dataset.name!r} could not be started: {reason}."
                ) from None
            assert self._process.stdout is not None
            if hasattr(fcntl, "F_SETPIPE_SZ"):  # macOS lacks it: an export reads in smaller steps there
                with suppress(OSError):  # the system may limit the size
                    fcntl.fcntl(self._process.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            dataset = asdict(replace(self._dataset, url=None))  # type: ignore[arg-type]
            opening = {"dataset": dataset, "database": self._dataset.url.database or ""}
            self._send(_request("open", opening | {"declared": self._declared, "as_text": self._as_text}))
            self._value(self._read_answer(self._process)[0])
        return self._process

    def _send(self, request: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request)
        except BrokenPipeError:
            self._fail(self._process)
        self._pending_request = request

    def _read_answer(self, process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], pa.Buffer]:
        size = self._read_bytes(process, 4)
        header = json.loads(self._read_bytes(process, int.from_bytes(size, "big")).to_pybytes())
        body = self._read_bytes(process, header["size"])
        self._pending_request = None
        return header, body

    def _read_bytes(self, process: subprocess.Popen[bytes], number: int) -> pa.Buffer:
        """Return the next *number* bytes of the child's answer. Blocks."""
        assert process.stdout is not None
        buffer = pa.allocate_buffer(number)
        left = memoryview(buffer)
        while left.nbytes:
            self._wait_for(process)
            found = os.readv(process.stdout.fileno(), [left])
            if not found:
                self._fail(process)
            left = left[found:]
        return buffer

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the child has written something. Raises _Closed if on_wait closed this reader."""
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)  # type: ignore[arg-type]
        while not poll.poll(_STEP_MILLISECONDS):
            if self.on_wait is not None:
                self.on_wait()
            if self._process is not process:
                raise _Closed

    def _fail(self, process: subprocess.Popen[bytes]) -> NoReturn:
        process.wait(_KILL_SECONDS)
        raise DatasetAway(
            f"The process that reads dataset {self._dataset.name!r} ended with code {process.returncode}; see the log."
        )

    def _end(self) -> None:
        process, self._process, self._pending_request = self._process, None, None
        if process is None:
            return
        process.kill()
        process.wait(_KILL_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class _Closed(Exception):
    """The reader was closed while it waited."""


def _request(method: str, args: dict[str, Any]) -> bytes:
    return json.dumps({"method": method, "args": args}).encode() + b"\n"


def _reading(
    columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int, max_bytes: int
) -> bytes:
    args = {"columns": columns, "after": _kept(after), **_range(begin, end), "limit": limit, "max_bytes": max_bytes}
    return _request("read", args)


def _range(begin: datetime, end: datetime) -> dict[str, str]:
    return {"begin": begin.isoformat(), "end": end.isoformat()}


def _kept(place: Place | None) -> dict[str, Any] | None:
    return place.to_json() if place else None


def _place(kept: dict[str, Any] | None) -> Place | None:
    return Place.from_json(kept) if kept else None
