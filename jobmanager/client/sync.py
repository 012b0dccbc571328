"""The client for programs of threads. What it does is in core.py; here it is sent, received, and waited for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar, Unpack

import httpx
from pydantic import PrivateAttr

from jobmanager.client import http, wire
from jobmanager.client.core import DEFAULT_URL, Core, Filters
from jobmanager.client.values import Change, JobType, LogLine, Sign, Snapshot, Sweep
from jobmanager.client.wire import Close, Course, Emit, Flow, Lost, Open, Pause, Receive, Reply, Send, Step
from jobmanager.records import Submission
from jobmanager.states import Action, Status

T = TypeVar("T")
#: Inside the class, `list` is a method.
Jobs = Iterator["Job"]
Ids = list[str]
Changes = list[Change]
Types = list[JobType]


class Job(Snapshot):
    """A job as it was when it was looked at, and what can be asked of it; each method asks the server anew."""

    _client: Client = PrivateAttr()

    def refresh(self) -> Job:
        """Return the job as it is now."""
        return self._client.get(self.id)

    def wait(self, timeout: float | None = None, *, statuses: Iterable[Status | str] | None = None) -> Job:
        """Return the job when it has come to rest; see Client.wait."""
        return self._client.wait(self.id, timeout, statuses=statuses)

    def follow(self, *, log_after: int | None = 0) -> Iterator[Sign]:
        """Give what happens to the job until it comes to rest; see Client.follow."""
        return self._client.follow(self.id, log_after=log_after)

    def halt(self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None) -> Job:
        """Have the job pause where it stands; see Client.halt."""
        return self._client.halt(self.id, wait=wait, reason=reason, if_match=if_match)

    def resume(self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None) -> Job:
        """Have the job go on where it stood; see Client.resume."""
        return self._client.resume(self.id, wait=wait, reason=reason, if_match=if_match)

    def stop(
        self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None, force: bool = False
    ) -> Job:
        """End the job for good; see Client.stop."""
        return self._client.stop(self.id, wait=wait, reason=reason, if_match=if_match, force=force)

    def changes(self) -> list[Change]:
        """Return what happened to the job, the oldest first."""
        return self._client.changes(self.id)

    def log(self, *, after: int = 0) -> Iterator[LogLine]:
        """Give the lines that the job logged, behind the one numbered *after*."""
        return self._client.log(self.id, after=after)

    def download(self, to: str | Path | BinaryIO | None = None) -> Path | None:
        """Save the file that the job made; see Client.download."""
        return self._client.download(self.id, to)


class Client:
    """The job manager at a URL; several threads may use it at once. Close it, or use it as a context manager.

    What fails because nothing answers, or because the server asks to come later, is tried again for *retry_seconds*;
    then Unreachable is raised, or what the server said. Every method may raise that, Refused,
    Unauthenticated, Forbidden and StoreUnavailable, besides what it names.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        retry_seconds: float = 30.0,
        timeout_seconds: float = 30.0,
    ) -> None:
        """Opens no connection yet; raises ConfigError for a URL or a token that is none."""
        self._http = httpx.Client(**http.options(url, token, timeout_seconds))
        self._core: Core[Job] = Core(url, self._make_job, retry_seconds=retry_seconds)

    def close(self) -> None:
        """Close the connections that are left open."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Submitting and looking

    def submit(
        self,
        type: str,  # noqa: A002 - the name it has everywhere
        args: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        timeout_seconds: float | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job; when this returns, no crash loses it.

        Makes one job however often it has to be sent: without an *idempotency_key* it has one of its own.
        Raises UnknownType, InvalidRequest, Conflict (the key was used for another submission), QueueFull.
        """
        asked = Submission(
            type=type,
            args=dict(args or {}),
            priority=priority,
            run_at=run_at,
            max_attempts=max_attempts,
            timeout_seconds=timeout_seconds,
            labels=dict(labels or {}),
            idempotency_key=idempotency_key,
        )
        return self._run(self._core.submit(asked))

    def submit_all(self, submissions: Iterable[Submission]) -> Ids:
        """Submit many jobs, all or none; returns their ids.

        They have no idempotency keys: if the answer is lost, Unreachable is raised, and they may have been stored.
        """
        return self._run(self._core.submit_all(submissions))

    def get(self, job_id: str) -> Job:
        """Return the job as it is now; raises UnknownJob."""
        return self._run(self._core.get(job_id))

    def list(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> Jobs:
        """Give the jobs that the filters select, the newest first; asks for more as they are taken."""
        return self._iterate(self._core.jobs(filters, limit))

    def changes(self, job_id: str) -> Changes:
        """Return what happened to the job, the oldest first; raises UnknownJob."""
        return self._run(self._core.changes(job_id))

    def log(self, job_id: str, *, after: int = 0) -> Iterator[LogLine]:
        """Give the lines that the job logged, behind the one numbered *after*; raises UnknownJob."""
        return self._iterate(self._core.log(job_id, after))

    def job_types(self) -> Types:
        """Return what can be submitted."""
        return self._run(self._core.job_types())

    # Halt, resume, stop: asking for what is already so changes nothing, so that asking again is safe.

    def halt(self, job_id: str, *, wait: float = 0, reason: str | None = None, if_match: str | None = None) -> Job:
        """Have the job pause where it stands, everything kept; waits up to *wait* seconds until it has.

        With *if_match*, the `etag` of a job that was looked at, nothing is done where the job has changed since.
        Raises UnknownJob, NotAllowed, Outdated.
        """
        return self._run(self._core.control(Action.HALT, job_id, wait=wait, reason=reason, if_match=if_match))

    def resume(self, job_id: str, *, wait: float = 0, reason: str | None = None, if_match: str | None = None) -> Job:
        """Have a halted or failed job go on where it stood; waits up to *wait* seconds until it runs.

        For *if_match* see `halt`. Raises UnknownJob, NotAllowed, Outdated.
        """
        return self._run(self._core.control(Action.RESUME, job_id, wait=wait, reason=reason, if_match=if_match))

    def stop(
        self,
        job_id: str,
        *,
        wait: float = 0,
        reason: str | None = None,
        if_match: str | None = None,
        force: bool = False,
    ) -> Job:
        """End the job for good and roll back what it did; waits up to *wait* seconds until that is done.

        *force* interrupts Python code that does not answer. For *if_match* see `halt`.
        Raises UnknownJob, NotAllowed, Outdated.
        """
        flow = self._core.control(Action.STOP, job_id, wait=wait, reason=reason, if_match=if_match, force=force)
        return self._run(flow)

    def halt_all(self, *, all: bool = False, reason: str | None = None, **filters: Unpack[Filters]) -> Sweep:  # noqa: A002
        """Ask every job that the filters select to halt, without waiting; without a filter, say *all*.

        If an answer is lost it is asked again, and the jobs that had changed by then are told as unchanged.
        """
        return self._run(self._core.control_all(Action.HALT, filters, all=all, reason=reason))

    def resume_all(
        self,
        *,
        all: bool = False,  # noqa: A002
        reason: str | None = None,
        spread_seconds: float = 0,
        **filters: Unpack[Filters],
    ) -> Sweep:
        """Have every job that the filters select go on, the last one after *spread_seconds*; see `halt_all`."""
        flow = self._core.control_all(Action.RESUME, filters, all=all, reason=reason, spread_seconds=spread_seconds)
        return self._run(flow)

    def stop_all(
        self,
        *,
        all: bool = False,  # noqa: A002
        reason: str | None = None,
        force: bool = False,
        **filters: Unpack[Filters],
    ) -> Sweep:
        """Ask every job that the filters select to stop, without waiting; see `halt_all`."""
        return self._run(self._core.control_all(Action.STOP, filters, all=all, reason=reason, force=force))

    # Waiting and watching: a server that is started again meanwhile is waited for, and nothing is missed.

    def wait(self, job_id: str, timeout: float | None = None, *, statuses: Iterable[Status | str] | None = None) -> Job:
        """Return the job when it has come to rest: completed, failed, stopped or halted; or in one of the *statuses*.

        Raises TimeoutError after *timeout* seconds, and UnknownJob.
        """
        return self._run(self._core.wait(job_id, timeout, statuses))

    def follow(self, job_id: str, *, log_after: int | None = 0) -> Iterator[Sign]:
        """Give what happens to the job from now on: Change, JobProgress and LogLine, and at its rest the Job itself.

        Log lines begin behind the one numbered *log_after*; with None there are none. Raises UnknownJob.
        """
        return self._iterate(self._core.follow(job_id, log_after))

    def events(self, **filters: Unpack[Filters]) -> Iterator[Change]:
        """Give each change of the jobs that the filters select, from now on, without end."""
        return self._iterate(self._core.events(filters))

    def download(self, job_id: str, to: str | Path | BinaryIO | None = None) -> Path | None:
        """Save the file that a completed job made, and return where; its SHA-256 is checked.

        *to* is a path, a folder, or a stream (then None is returned); by default the file comes here, under its own
        name, unless there is one: FileExistsError. What breaks off goes on, also in a later call.
        Raises UnknownJob, NotFound if there is no file, Damaged, OSError.
        """
        return self._run(self._core.download(job_id, to))

    def _make_job(self, shown: dict[str, Any]) -> Job:
        job = wire.read(Job, shown)
        job._client = self
        return job

    def _run(self, flow: Flow[T]) -> T:
        course = Course(flow)
        with _Line(self._http, course) as line:
            while (step := course.next()) is not None:
                course.tell(line.do(step))
        return course.result

    def _iterate(self, flow: Flow[None]) -> Iterator[Any]:
        course = Course(flow)
        with _Line(self._http, course) as line:
            while (step := course.next()) is not None:
                if isinstance(step, Emit):
                    yield step.value
                else:
                    course.tell(line.do(step))


class _Line:
    """Does the steps of one flow, and holds the stream that it has open."""

    def __init__(self, client: httpx.Client, course: Course[Any]) -> None:
        self._http = client
        self._course = course
        self._stream: httpx.Response | None = None
        self._chunks: Iterator[bytes] | None = None

    def __enter__(self) -> _Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._course.close()
        self._close()

    def do(self, step: Step) -> Reply | bytes | Lost | None:
        """Return the answer to the step."""
        try:
            match step:
                case Pause(seconds):
                    time.sleep(seconds)
                case Close():
                    self._close()
                case Send(request):
                    response = self._http.send(http.built(self._http, request))
                    return http.reply_of(response, response.content)
                case Open(request):
                    return self._open(request)
                case Receive():
                    return next(self._chunks, b"") if self._chunks is not None else b""
        except httpx.RequestError as error:
            return http.lost(error)
        return None

    def _open(self, request: wire.Request) -> Reply:
        self._close()
        response = self._http.send(http.built(self._http, request), stream=True)
        if not response.is_success:
            with closing(response):
                return http.reply_of(response, response.read())
        self._stream, self._chunks = response, response.iter_bytes()
        return http.reply_of(response)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream, self._chunks = None, None
