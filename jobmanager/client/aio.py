"""The client for programs of asyncio. What it does is in core.py; here it is sent, received, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
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
Jobs = AsyncIterator["AsyncJob"]
Ids = list[str]
Changes = list[Change]
Types = list[JobType]


class AsyncJob(Snapshot):
    """A job as it was when it was looked at, and what can be asked of it; each method asks the server anew."""

    _client: AsyncClient = PrivateAttr()

    async def refresh(self) -> AsyncJob:
        """Return the job as it is now."""
        return await self._client.get(self.id)

    async def wait(self, timeout: float | None = None, *, statuses: Iterable[Status | str] | None = None) -> AsyncJob:
        """Return the job when it has come to rest; see AsyncClient.wait."""
        return await self._client.wait(self.id, timeout, statuses=statuses)

    def follow(self, *, log_after: int | None = 0) -> AsyncIterator[Sign]:
        """Give what happens to the job until it comes to rest; see AsyncClient.follow."""
        return self._client.follow(self.id, log_after=log_after)

    async def halt(self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None) -> AsyncJob:
        """Have the job pause where it stands; see AsyncClient.halt."""
        return await self._client.halt(self.id, wait=wait, reason=reason, if_match=if_match)

    async def resume(self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None) -> AsyncJob:
        """Have the job go on where it stood; see AsyncClient.resume."""
        return await self._client.resume(self.id, wait=wait, reason=reason, if_match=if_match)

    async def stop(
        self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None, force: bool = False
    ) -> AsyncJob:
        """End the job for good; see AsyncClient.stop."""
        return await self._client.stop(self.id, wait=wait, reason=reason, if_match=if_match, force=force)

    async def changes(self) -> list[Change]:
        """Return what happened to the job, the oldest first."""
        return await self._client.changes(self.id)

    def log(self, *, after: int = 0) -> AsyncIterator[LogLine]:
        """Give the lines that the job logged, behind the one numbered *after*."""
        return self._client.log(self.id, after=after)

    async def download(self, to: str | Path | BinaryIO | None = None) -> Path | None:
        """Save the file that the job made; see AsyncClient.download."""
        return await self._client.download(self.id, to)


class AsyncClient:
    """The job manager at a URL; many coroutines of one event loop may use it at once.

    Close it, or use it as a context manager. An iteration that is left before its end is best closed as well, by
    `contextlib.aclosing`.

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
        self._http = httpx.AsyncClient(**http.options(url, token, timeout_seconds))
        self._core: Core[AsyncJob] = Core(url, self._make_job, retry_seconds=retry_seconds)

    async def close(self) -> None:
        """Close the connections that are left open."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # Submitting and looking

    async def submit(
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
    ) -> AsyncJob:
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
        return await self._run(self._core.submit(asked))

    async def submit_all(self, submissions: Iterable[Submission]) -> Ids:
        """Submit many jobs, all or none; returns their ids.

        They have no idempotency keys: if the answer is lost, Unreachable is raised, and they may have been stored.
        """
        return await self._run(self._core.submit_all(submissions))

    async def get(self, job_id: str) -> AsyncJob:
        """Return the job as it is now; raises UnknownJob."""
        return await self._run(self._core.get(job_id))

    def list(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> Jobs:
        """Give the jobs that the filters select, the newest first; asks for more as they are taken."""
        return self._iterate(self._core.jobs(filters, limit))

    async def changes(self, job_id: str) -> Changes:
        """Return what happened to the job, the oldest first; raises UnknownJob."""
        return await self._run(self._core.changes(job_id))

    def log(self, job_id: str, *, after: int = 0) -> AsyncIterator[LogLine]:
        """Give the lines that the job logged, behind the one numbered *after*; raises UnknownJob."""
        return self._iterate(self._core.log(job_id, after))

    async def job_types(self) -> Types:
        """Return what can be submitted."""
        return await self._run(self._core.job_types())

    # Halt, resume, stop: asking for what is already so changes nothing, so that asking again is safe.

    async def halt(
        self, job_id: str, *, wait: float = 0, reason: str | None = None, if_match: str | None = None
    ) -> AsyncJob:
        """Have the job pause where it stands, everything kept; waits up to *wait* seconds until it has.

        With *if_match*, the `etag` of a job that was looked at, nothing is done where the job has changed since.
        Raises UnknownJob, NotAllowed, Outdated.
        """
        return await self._run(self._core.control(Action.HALT, job_id, wait=wait, reason=reason, if_match=if_match))

    async def resume(
        self, job_id: str, *, wait: float = 0, reason: str | None = None, if_match: str | None = None
    ) -> AsyncJob:
        """Have a halted or failed job go on where it stood; waits up to *wait* seconds until it runs.

        For *if_match* see `halt`. Raises UnknownJob, NotAllowed, Outdated.
        """
        return await self._run(self._core.control(Action.RESUME, job_id, wait=wait, reason=reason, if_match=if_match))

    async def stop(
        self,
        job_id: str,
        *,
        wait: float = 0,
        reason: str | None = None,
        if_match: str | None = None,
        force: bool = False,
    ) -> AsyncJob:
        """End the job for good and roll back what it did; waits up to *wait* seconds until that is done.

        *force* interrupts Python code that does not answer. For *if_match* see `halt`.
        Raises UnknownJob, NotAllowed, Outdated.
        """
        flow = self._core.control(Action.STOP, job_id, wait=wait, reason=reason, if_match=if_match, force=force)
        return await self._run(flow)

    async def halt_all(self, *, all: bool = False, reason: str | None = None, **filters: Unpack[Filters]) -> Sweep:  # noqa: A002
        """Ask every job that the filters select to halt, without waiting; without a filter, say *all*.

        If an answer is lost it is asked again, and the jobs that had changed by then are told as unchanged.
        """
        return await self._run(self._core.control_all(Action.HALT, filters, all=all, reason=reason))

    async def resume_all(
        self,
        *,
        all: bool = False,  # noqa: A002
        reason: str | None = None,
        spread_seconds: float = 0,
        **filters: Unpack[Filters],
    ) -> Sweep:
        """Have every job that the filters select go on, the last one after *spread_seconds*; see `halt_all`."""
        flow = self._core.control_all(Action.RESUME, filters, all=all, reason=reason, spread_seconds=spread_seconds)
        return await self._run(flow)

    async def stop_all(
        self,
        *,
        all: bool = False,  # noqa: A002
        reason: str | None = None,
        force: bool = False,
        **filters: Unpack[Filters],
    ) -> Sweep:
        """Ask every job that the filters select to stop, without waiting; see `halt_all`."""
        return await self._run(self._core.control_all(Action.STOP, filters, all=all, reason=reason, force=force))

    # Waiting and watching: a server that is started again meanwhile is waited for, and nothing is missed.

    async def wait(
        self, job_id: str, timeout: float | None = None, *, statuses: Iterable[Status | str] | None = None
    ) -> AsyncJob:
        """Return the job when it has come to rest: completed, failed, stopped or halted; or in one of the *statuses*.

        Raises TimeoutError after *timeout* seconds, and UnknownJob.
        """
        return await self._run(self._core.wait(job_id, timeout, statuses))

    def follow(self, job_id: str, *, log_after: int | None = 0) -> AsyncIterator[Sign]:
        """Give what happens to the job from now on: Change, JobProgress and LogLine, and at its rest the AsyncJob.

        Log lines begin behind the one numbered *log_after*; with None there are none. Raises UnknownJob.
        """
        return self._iterate(self._core.follow(job_id, log_after))

    def events(self, **filters: Unpack[Filters]) -> AsyncIterator[Change]:
        """Give each change of the jobs that the filters select, from now on, without end."""
        return self._iterate(self._core.events(filters))

    async def download(self, job_id: str, to: str | Path | BinaryIO | None = None) -> Path | None:
        """Save the file that a completed job made, and return where; its SHA-256 is checked.

        *to* is a path, a folder, or a stream (then None is returned); by default the file comes here, under its own
        name, unless there is one: FileExistsError. What breaks off goes on, also in a later call.
        Raises UnknownJob, NotFound if there is no file, Damaged, OSError.
        """
        return await self._run(self._core.download(job_id, to))

    def _make_job(self, shown: dict[str, Any]) -> AsyncJob:
        job = wire.read(AsyncJob, shown)
        job._client = self
        return job

    async def _run(self, flow: Flow[T]) -> T:
        course = Course(flow)
        async with _Line(self._http, course) as line:
            while (step := course.next()) is not None:
                course.tell(await line.do(step))
        return course.result

    async def _iterate(self, flow: Flow[None]) -> AsyncIterator[Any]:
        course = Course(flow)
        async with _Line(self._http, course) as line:
            while (step := course.next()) is not None:
                if isinstance(step, Emit):
                    yield step.value
                else:
                    course.tell(await line.do(step))


class _Line:
    """Does the steps of one flow, and holds the stream that it has open."""

    def __init__(self, client: httpx.AsyncClient, course: Course[Any]) -> None:
        self._http = client
        self._course = course
        self._stream: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> _Line:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._course.close()
        await self._close()

    async def do(self, step: Step) -> Reply | bytes | Lost | None:
        """Return the answer to the step."""
        try:
            match step:
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Close():
                    await self._close()
                case Send(request):
                    response = await self._http.send(http.built(self._http, request))
                    return http.reply_of(response, response.content)
                case Open(request):
                    return await self._open(request)
                case Receive():
                    return await anext(self._chunks, b"") if self._chunks is not None else b""
        except httpx.RequestError as error:
            return http.lost(error)
        return None

    async def _open(self, request: wire.Request) -> Reply:
        await self._close()
        response = await self._http.send(http.built(self._http, request), stream=True)
        if not response.is_success:
            async with aclosing(response):
                return http.reply_of(response, await response.aread())
        self._stream, self._chunks = response, response.aiter_bytes()
        return http.reply_of(response)

    async def _close(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        self._stream, self._chunks = None, None
