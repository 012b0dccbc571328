"""The logic of a client as flows of steps: which requests to send, in which order, and how to handle each reply.

Does no network I/O, so that the sync and the async client share this module. Writes the file of a download, and reads
the monotonic clock for deadlines.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from jobmanager.client import protocol
from jobmanager.client.downloads import Sink, sink_for
from jobmanager.client.errors import Damaged, Unexpected, Unreachable
from jobmanager.client.filters import Filters, json_filter, query_of
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
from jobmanager.client.protocol import (
    Emit,
    Flow,
    NoReply,
    Open,
    Receive,
    Reply,
    Request,
    Send,
    job_path,
    to_json,
)
from jobmanager.client.retries import RetryBudget
from jobmanager.core.states import REACHED, UNDER_WAY, Action, Status
from jobmanager.core.values import Submission
from jobmanager.errors import InvalidRequest, Outdated

J = TypeVar("J", bound=Snapshot)
#: URL of the service if no other is given.
DEFAULT_URL = "http://127.0.0.1:8080"
#: The longest wait that the server grants a request (`Prefer: wait=N`, RFC 7240).
_MOST_WAIT_SECONDS = 30
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_LONGEST_PAGE = 500
_LINES_A_PAGE = 5000


class Core(Generic[J]):
    """All operations of a client. *make_job* builds a job from the server's JSON, with the ETag added."""

    def __init__(self, url: str, make_job: Callable[[dict[str, Any]], J], *, retry_seconds: float) -> None:
        self._url = url
        self._make_job = make_job
        self._retry_seconds = retry_seconds

    # Submit and read

    def submit(self, submission: Submission) -> Flow[J]:
        key = str(uuid.uuid4()) if submission.idempotency_key is None else submission.idempotency_key
        if not (key.isascii() and key.isprintable() and 0 < len(key) <= 255):
            raise InvalidRequest("An idempotency key has 1 to 255 printable ASCII characters.", field="idempotency_key")
        reply = yield from self.request(_post("/jobs", to_json(_body_of(submission)), {"Idempotency-Key": key}))
        return self._job(reply)

    def submit_all(self, submissions: Iterable[Submission]) -> Flow[list[str]]:
        batch = list(submissions)
        if any(one.idempotency_key is not None for one in batch):
            raise InvalidRequest("Jobs of a batch cannot have idempotency keys.", field="idempotency_key")
        body = b"\n".join(to_json(_body_of(one)) for one in batch)
        reply = yield from self.request(_post("/jobs/batch", body), is_repeatable=False)
        return protocol.validate(IdList, protocol.parse_json(reply)).ids

    def get(self, job_id: str) -> Flow[J]:
        reply = yield from self.request(_get(job_path(job_id)), job_id=job_id)
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
        reply = yield from self.request(_get("/jobs", query))
        shown = protocol.parse_json(reply)
        page = protocol.validate(
            JobPage, shown | {"shown_at": protocol.time_of(reply)} if isinstance(shown, dict) else shown
        )
        if cursor is not None and page.next_cursor == cursor:
            raise Unexpected("The server repeats a page of its list of jobs, so that the list would never end.")
        return page

    def changes(self, job_id: str) -> Flow[list[Change]]:
        reply = yield from self.request(_get(job_path(job_id, "changes")), job_id=job_id)
        return protocol.validate(ChangeList, protocol.parse_json(reply)).changes

    def log(self, job_id: str, after: int = 0) -> Flow[None]:
        while lines := (yield from self.lines(job_id, after)):
            for line in lines:
                yield Emit(line)
            after = lines[-1].number

    def lines(self, job_id: str, after: int) -> Flow[list[LogLine]]:
        query = [("after", str(after)), ("limit", str(_LINES_A_PAGE))]
        reply = yield from self.request(_get(job_path(job_id, "log"), query), job_id=job_id)
        return protocol.validate(LineList, protocol.parse_json(reply)).lines

    def job_types(self) -> Flow[list[JobType]]:
        reply = yield from self.request(_get("/job-types"))
        return protocol.validate(TypeList, protocol.parse_json(reply)).job_types

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
        tries: list[NoReply] = []
        try:
            reply = yield from self.request(request, job_id=job_id, action=action, lost=tries)
            job = self._job(reply)
        except Outdated:
            # If the reply to an earlier try of this request was lost, that try may have changed the job.
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
        body: dict[str, Any] = dict(json_filter(filters)) | more
        for name, field in (("status", "status"), ("labels", "label")):
            if filters.get(name) is not None and field not in body:
                # A computed filter that came out empty must not select every job.
                raise InvalidRequest(f"The filter {name} is empty. Leave it out to match all.", field=name)
        if all:
            body["all"] = True
        if reason is not None:
            body["reason"] = reason
        reply = yield from self.request(_post(f"/jobs/{action}", to_json(body)))
        return protocol.validate(BulkResult, protocol.parse_json(reply))

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
        """Wait until *holds* is true of the job's status, or until the deadline, and return the job."""
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
            for update in (yield from tail.next()):
                yield Emit(update)

    def events(self, filters: Filters) -> Flow[None]:
        tail = ListTail(self, filters, query_of(filters))
        while True:
            for update in (yield from tail.next()):
                if isinstance(update, Change):
                    yield Emit(update)

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
        budget = RetryBudget(self._retry_seconds)
        is_complete = False
        while not is_complete:
            try:
                is_complete = yield from self._fetch_once(job_id, sink, budget)
            except NoReply as lost:
                yield from budget.wait_or_raise(self._unreachable(lost))

    def _fetch_once(self, job_id: str, sink: Sink, budget: RetryBudget) -> Flow[bool]:
        """Request the missing bytes. Return True if the file is complete, False to try again. Raises NoReply."""
        begin = sink.size()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
        reply = yield Open(_get(job_path(job_id, "artifact"), headers=headers))
        if reply.status in (200, 206):
            return (yield from _receive(reply, sink, begin, budget))
        if reply.status == 416:
            is_complete: bool = reply.headers.get("content-range", "").endswith(f"/{begin}")
            if not is_complete:
                sink.restart()
            return is_complete
        error = protocol.error_of(reply, job_id=job_id)
        if not protocol.is_temporary(reply, is_repeatable=True):
            raise error
        yield from budget.wait_or_raise(error, least_seconds=protocol.retry_after_seconds(reply))
        return False

    # Send one request

    def request(
        self,
        request: Request,
        *,
        is_repeatable: bool = True,
        job_id: str = "",
        action: str = "",
        lost: list[NoReply] | None = None,
    ) -> Flow[Reply]:
        """Send a request, with retries, and return the successful reply.

        Appends to *lost* each failure after which the server may have processed the request.
        Raises the JobManagerError for the last failure.
        """
        budget = RetryBudget(self._retry_seconds)
        while True:
            try:
                reply: Reply = yield Send(request)
            except NoReply as failure:
                if failure.was_sent and lost is not None:
                    lost.append(failure)
                if failure.was_sent and not is_repeatable:
                    raise self._unreachable(failure) from None
                yield from budget.wait_or_raise(self._unreachable(failure))
                continue
            if 200 <= reply.status < 300:
                return reply
            if reply.status < 400:
                raise Unexpected(f"The server at {self._url} is not a job manager: status {reply.status}.")
            error = protocol.error_of(reply, job_id=job_id, action=action)
            if not protocol.is_temporary(reply, is_repeatable=is_repeatable):
                raise error
            yield from budget.wait_or_raise(error, least_seconds=protocol.retry_after_seconds(reply))

    def job_of(self, shown: Any) -> J:
        """Build a job from the server's JSON. Raises Unexpected."""
        if not isinstance(shown, dict):
            raise Unexpected("The reply is not from a job manager.")
        return self._make_job(shown)

    def _job(self, reply: Reply) -> J:
        shown = protocol.parse_json(reply)
        if isinstance(shown, dict) and "etag" in reply.headers:
            shown["etag"] = reply.headers["etag"]
        return self.job_of(shown)

    def _unreachable(self, lost: NoReply) -> Unreachable:
        return Unreachable(f"The job manager at {self._url} cannot be reached: {lost}.")


def _body_of(submission: Submission) -> dict[str, Any]:
    body = {
        "type": submission.type,
        "args": submission.args,
        "priority": submission.priority,
        "run_at": submission.run_at.isoformat() if submission.run_at else None,
        "max_attempts": submission.max_attempts,
        "timeout_seconds": submission.timeout_seconds,
        "labels": submission.labels,
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


def _receive(reply: Reply, sink: Sink, begin: int, budget: RetryBudget) -> Flow[bool]:
    """Append the body of the reply to *sink*, which already has *begin* bytes. Return True if the file is complete now.

    If the server sent the whole file instead, replaces those bytes. Raises Damaged if the body is another part of the
    file than the client requested, or has the wrong length. Raises NoReply if the body breaks off.
    """
    first, size = _range_of(reply)
    if begin and first == 0:
        sink.restart()
    elif first != begin:
        raise Damaged("The server sent another part of the file than the client requested.")
    before = sink.size()
    while chunk := (yield Receive()):
        sink.write(chunk)
        budget.reset()
    if size is None or sink.size() == size:
        return True
    if sink.size() > size:
        raise Damaged("The server sent more than the file has.")
    if sink.size() == before:
        raise Damaged("The server sent nothing of the part that the client requested.")
    return False


def _range_of(reply: Reply) -> tuple[int, int | None]:
    """Return where the body begins in the file, and the size of the file.

    The size is None if the body is the whole file. Returns -1 and None if Content-Range is invalid. A server may send
    less than the requested range (RFC 9110, 15.3.7).
    """
    if reply.status == 200:
        return 0, None
    found = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
    return (-1, None) if found is None else (int(found[1]), int(found[2]))
