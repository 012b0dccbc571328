"""The logic of a client as flows of steps: which requests to send, in which order, and how to handle each reply.

The only I/O here is writing the file of a download, so the sync and the async client share this module. Reads the
monotonic clock, for deadlines.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypedDict, TypeVar

from jobmanager.client import protocol
from jobmanager.client.downloads import Sink, sink_for
from jobmanager.client.errors import Damaged, Unexpected, Unreachable
from jobmanager.client.following import JobTail, ListTail
from jobmanager.client.models import (
    AT_REST,
    BulkResult,
    Change,
    ChangeList,
    IdList,
    JobPage,
    JobType,
    LineList,
    LogLine,
    Snapshot,
    TypeList,
    progress_of,
)
from jobmanager.client.protocol import Emit, Flow, Lost, Open, Pause, Receive, Reply, Request, Send, job_path, to_json
from jobmanager.core.outcomes import backoff
from jobmanager.core.states import REACHED, UNDER_WAY, Action, Status
from jobmanager.core.values import Submission
from jobmanager.errors import InvalidRequest, JobManagerError, Outdated

J = TypeVar("J", bound=Snapshot)
#: URL of the service if no other is given.
DEFAULT_URL = "http://127.0.0.1:8080"
#: The longest wait that the server grants a request (`Prefer: wait=N`, RFC 7240).
_MOST_WAIT_SECONDS = 30
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_LONGEST_PAGE = 500
_LINES_A_PAGE = 5000
#: Base and cap of the backoff between retries of a request.
_LEAST_PAUSE_SECONDS = 0.1
_MOST_PAUSE_SECONDS = 5.0


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


class Patience:
    """Pauses between the retries of a request; gives up after *seconds* without progress."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Restart the deadline and the backoff, because data has arrived."""
        self._deadline = time.monotonic() + self._seconds
        self._failures = 0

    def pause(self, error: JobManagerError, *, least_seconds: float = 0.0) -> Flow[None]:
        """Wait before the next try. Raises *error* if the wait would end after the deadline."""
        self._failures += 1
        seconds = max(least_seconds, backoff(self._failures, base=_LEAST_PAUSE_SECONDS, cap=_MOST_PAUSE_SECONDS))
        if time.monotonic() + seconds > self._deadline:
            raise error
        yield Pause(seconds)


class Core(Generic[J]):
    """All operations of a client. *make_job* builds a job from the server's JSON, with the ETag added."""

    def __init__(self, url: str, make_job: Callable[[dict[str, Any]], J], *, retry_seconds: float) -> None:
        self._url = url
        self._make_job = make_job
        self._retry_seconds = retry_seconds

    # Submit and read

    def submit(self, asked: Submission) -> Flow[J]:
        key = str(uuid.uuid4()) if asked.idempotency_key is None else asked.idempotency_key
        if not (key.isascii() and key.isprintable() and 0 < len(key) <= 255):
            raise InvalidRequest("An idempotency key has 1 to 255 printable ASCII characters.", field="idempotency_key")
        reply = yield from self.ask(_post("/jobs", to_json(_body_of(asked)), {"Idempotency-Key": key}))
        return self._job(reply)

    def submit_all(self, submissions: Iterable[Submission]) -> Flow[list[str]]:
        asked = list(submissions)
        if any(one.idempotency_key is not None for one in asked):
            raise InvalidRequest("Jobs of a batch cannot have idempotency keys.", field="idempotency_key")
        body = b"\n".join(to_json(_body_of(one)) for one in asked)
        reply = yield from self.ask(_post("/jobs/batch", body), is_repeatable=False)
        return protocol.read(IdList, protocol.read_json(reply)).ids

    def get(self, job_id: str) -> Flow[J]:
        reply = yield from self.ask(_get(job_path(job_id)), job_id=job_id)
        return self._job(reply)

    def jobs(self, filters: Filters, limit: int | None = None) -> Flow[None]:
        cursor: str | None = None
        left = math.inf if limit is None else limit
        while left > 0:
            page = yield from self.page(filters, int(min(left, _LONGEST_PAGE)), cursor)
            for shown in page.jobs:
                yield Emit(self._make_job(shown))
            left -= len(page.jobs)
            if page.next_cursor is None:
                return
            cursor = page.next_cursor

    def page(self, filters: Filters, limit: int, cursor: str | None = None) -> Flow[JobPage]:
        query = [*query_of(filters), ("limit", str(limit))]
        if cursor is not None:
            query.append(("cursor", cursor))
        reply = yield from self.ask(_get("/jobs", query))
        shown = protocol.read_json(reply)
        page = protocol.read(
            JobPage, shown | {"shown_at": protocol.time_of(reply)} if isinstance(shown, dict) else shown
        )
        if cursor is not None and page.next_cursor == cursor:
            raise Unexpected("The server repeats a page of its list of jobs, so that the list would never end.")
        return page

    def changes(self, job_id: str) -> Flow[list[Change]]:
        reply = yield from self.ask(_get(job_path(job_id, "changes")), job_id=job_id)
        return protocol.read(ChangeList, protocol.read_json(reply)).changes

    def log(self, job_id: str, after: int = 0) -> Flow[None]:
        while lines := (yield from self.lines(job_id, after)):
            for line in lines:
                yield Emit(line)
            after = lines[-1].number

    def lines(self, job_id: str, after: int) -> Flow[list[LogLine]]:
        query = [("after", str(after)), ("limit", str(_LINES_A_PAGE))]
        reply = yield from self.ask(_get(job_path(job_id, "log"), query), job_id=job_id)
        return protocol.read(LineList, protocol.read_json(reply)).lines

    def job_types(self) -> Flow[list[JobType]]:
        reply = yield from self.ask(_get("/job-types"))
        return protocol.read(TypeList, protocol.read_json(reply)).job_types

    # Halt, resume, stop

    def control(
        self, action: Action, job_id: str, *, wait: float, reason: str | None, if_match: str | None, force: bool = False
    ) -> Flow[J]:
        deadline = time.monotonic() + wait
        headers = {"Prefer": f"wait={min(_MOST_WAIT_SECONDS, math.ceil(wait))}"} if wait > 0 else {}
        if if_match is not None:
            headers["If-Match"] = if_match
        body = {"reason": reason} if reason is not None else {}
        request = _post(job_path(job_id, action), to_json(body | ({"force": True} if force else {})), headers)
        tries: list[Lost] = []
        try:
            reply = yield from self.ask(request, job_id=job_id, action=action, lost=tries)
            job = self._job(reply)
        except Outdated:
            # This request itself may have changed the job, if the reply to an earlier try was lost.
            job = yield from self.get(job_id)
            if not tries or job.status not in REACHED[action] | UNDER_WAY[action]:
                raise
        if job.status in UNDER_WAY[action] and time.monotonic() < deadline:
            return (yield from self._until(job, deadline, lambda status: status not in UNDER_WAY[action]))
        return job

    def control_all(
        self,
        action: Action,
        filters: Filters,
        *,
        all: bool,  # noqa: A002
        reason: str | None,
        **more: Any,
    ) -> Flow[BulkResult]:
        body: dict[str, Any] = dict(_filter(filters)) | more
        for name, field in (("status", "status"), ("labels", "label")):
            if filters.get(name) is not None and field not in body:
                # A computed filter that came out empty must not select every job.
                raise InvalidRequest(f"The filter {name} is empty. Leave it out to match all.", field=name)
        if all:
            body["all"] = True
        if reason is not None:
            body["reason"] = reason
        reply = yield from self.ask(_post(f"/jobs/{action}", to_json(body)))
        return protocol.read(BulkResult, protocol.read_json(reply))

    # Wait and follow

    def wait(self, job_id: str, timeout: float | None, statuses: Iterable[Status | str] | None) -> Flow[J]:
        wanted = AT_REST if statuses is None else {Status(status) for status in statuses}
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        job = yield from self.get(job_id)
        job = yield from self._until(job, deadline, lambda status: status in wanted)
        if job.status not in wanted:
            raise TimeoutError(f"Job {job_id} is still {job.status} after {timeout:g} seconds.")
        return job

    def _until(self, job: J, deadline: float, holds: Callable[[Status], bool]) -> Flow[J]:
        """Return the job once *holds* is true of its status, or at the deadline."""
        tail = JobTail(self, job, deadline=deadline)
        while not holds(tail.job.status) and time.monotonic() < deadline:
            yield from tail.next()
        return tail.job

    def follow(self, job_id: str, log_after: int | None) -> Flow[None]:
        known = yield from self.changes(job_id)
        job = yield from self.get(job_id)
        tail = JobTail(self, job, seen=known)
        yield Emit(progress_of(job))
        while True:
            if log_after is not None:
                while lines := (yield from self.lines(job_id, log_after)):
                    for line in lines:
                        yield Emit(line)
                    log_after = lines[-1].number
            if tail.job.status in AT_REST and tail.is_caught_up:
                yield Emit(tail.job)
                return
            for sign in (yield from tail.next()):
                yield Emit(sign)

    def events(self, filters: Filters) -> Flow[None]:
        tail = ListTail(self, filters, query_of(filters))
        while True:
            for sign in (yield from tail.next()):
                if isinstance(sign, Change):
                    yield Emit(sign)

    # Files

    def download(self, job_id: str, to: str | Path | BinaryIO | None) -> Flow[Path | None]:
        job = yield from self.get(job_id)
        told = job.result if isinstance(job.result, dict) else {}
        sink = sink_for(to, str(told.get("filename") or told.get("file") or job_id), job_id)
        try:
            yield from self._fetch(job_id, sink)
            expected = told.get("sha256")
            if expected is not None and sink.sha256() != expected:
                # The part file of an earlier download may be damaged: fetch the whole file again.
                sink.restart()
                yield from self._fetch(job_id, sink)
                if sink.sha256() != expected:
                    raise Damaged("The download is damaged: its SHA-256 differs from that of the job's file.")
            return sink.finish()
        finally:
            sink.close()

    def _fetch(self, job_id: str, sink: Sink) -> Flow[None]:
        """Download the bytes of the job's file that *sink* lacks, with retries."""
        patience = Patience(self._retry_seconds)
        while True:
            begin = sink.size()
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
            try:
                reply = yield Open(_get(job_path(job_id, "artifact"), headers=headers))
                if reply.status in (200, 206):
                    first, is_to_end = _range_of(reply)
                    if begin and first == 0:
                        sink.restart()
                    elif first != begin:
                        raise Damaged("The server sent another part of the file than the client requested.")
                    before = sink.size()
                    while chunk := (yield Receive()):
                        sink.write(chunk)
                        patience.renew()
                    if is_to_end:
                        return
                    if sink.size() == before:
                        raise Damaged("The server sent nothing of the part that the client requested.")
                    continue
            except Lost as lost:
                yield from patience.pause(self._unreachable(lost))
                continue
            if reply.status == 416 and reply.headers.get("content-range", "").endswith(f"/{begin}"):
                return  # the file is already complete
            if reply.status == 416:
                sink.restart()
                continue
            error = protocol.error_of(reply, job_id=job_id)
            if not protocol.is_temporary(reply, is_repeatable=True):
                raise error
            yield from patience.pause(error, least_seconds=protocol.retry_after_seconds(reply))

    # Send one request

    def ask(
        self,
        request: Request,
        *,
        is_repeatable: bool = True,
        job_id: str = "",
        action: str = "",
        lost: list[Lost] | None = None,
    ) -> Flow[Reply]:
        """Send a request, with retries, and return the successful reply.

        Appends to *lost* each failure after which the server may have processed the request.
        Raises the JobManagerError for the last failure.
        """
        patience = Patience(self._retry_seconds)
        while True:
            try:
                reply: Reply = yield Send(request)
            except Lost as failure:
                if failure.was_sent and lost is not None:
                    lost.append(failure)
                if failure.was_sent and not is_repeatable:
                    raise self._unreachable(failure) from None
                yield from patience.pause(self._unreachable(failure))
                continue
            if 200 <= reply.status < 300:
                return reply
            if reply.status < 400:
                raise Unexpected(f"The server at {self._url} is not a job manager: status {reply.status}.")
            error = protocol.error_of(reply, job_id=job_id, action=action)
            if not protocol.is_temporary(reply, is_repeatable=is_repeatable):
                raise error
            yield from patience.pause(error, least_seconds=protocol.retry_after_seconds(reply))

    def job_of(self, shown: Any) -> J:
        """Build a job from the server's JSON. Raises Unexpected."""
        if not isinstance(shown, dict):
            raise Unexpected("The reply is not from a job manager.")
        return self._make_job(shown)

    def _job(self, reply: Reply) -> J:
        shown = protocol.read_json(reply)
        if isinstance(shown, dict) and "etag" in reply.headers:
            shown["etag"] = reply.headers["etag"]
        return self.job_of(shown)

    def _unreachable(self, lost: Lost) -> Unreachable:
        return Unreachable(f"The job manager at {self._url} cannot be reached: {lost}.")


def query_of(filters: Filters) -> Sequence[tuple[str, str]]:
    """Return the filter as query parameters."""
    told: list[tuple[str, str]] = []
    for name, value in _filter(filters).items():
        told += [(name, each) for each in ([value] if isinstance(value, str) else value)]
    return told


def _filter(filters: Filters) -> dict[str, str | list[str]]:
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


def _body_of(asked: Submission) -> dict[str, Any]:
    body = {
        "type": asked.type,
        "args": asked.args,
        "priority": asked.priority,
        "run_at": asked.run_at.isoformat() if asked.run_at else None,
        "max_attempts": asked.max_attempts,
        "timeout_seconds": asked.timeout_seconds,
        "labels": asked.labels,
    }
    return {name: value for name, value in body.items() if value is not None}


def _get(path: str, query: Sequence[tuple[str, str]] = (), headers: Mapping[str, str] | None = None) -> Request:
    return Request(method="GET", path=path, query=tuple(query), headers=headers or {})


def _post(path: str, content: bytes, headers: Mapping[str, str] | None = None) -> Request:
    # The server sends nothing during the requested wait: the read timeout must be longer.
    waits = (headers or {}).get("Prefer", "wait=0").removeprefix("wait=")
    return Request(
        method="POST",
        path=path,
        content=content,
        headers={"Content-Type": "application/json"} | dict(headers or {}),
        read_seconds=int(waits) + _MOST_WAIT_SECONDS if waits != "0" else None,
    )


def _range_of(reply: Reply) -> tuple[int, bool]:
    """Return the offset in the file of the body's first byte, or -1; and whether the body reaches the file's end.

    A server may send less than the requested range (RFC 9110, 15.3.7).
    """
    if reply.status == 200:
        return 0, True
    found = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
    if found is None:
        return -1, False
    first, last, size = map(int, found.groups())
    return first, last + 1 == size
