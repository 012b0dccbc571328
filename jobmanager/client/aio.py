"""The asyncio client: executes the flows of flows.py on an event loop."""

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

from jobmanager.client import http, protocol
from jobmanager.client.filters import Filters
from jobmanager.client.flows import DEFAULT_URL, Core
from jobmanager.client.models import BulkResult, Change, JobType, LogLine, Snapshot, Update
from jobmanager.client.protocol import Close, Emit, Flow, FlowDriver, NoReply, Open, Pause, Receive, Reply, Send, Step
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Submission

T = TypeVar("T")
#: Aliases for annotations: inside the class, `list` is a method.
Jobs = AsyncIterator["AsyncJob"]
Ids = list[str]
Changes = list[Change]
Types = list[JobType]


class AsyncJob(Snapshot):
    """Snapshot of a job. It never changes: each method sends a request and returns a new value."""

    _client: AsyncClient = PrivateAttr()

    async def refresh(self) -> AsyncJob:
        """Return the job as it is now."""
        return await self._client.get(self.id)

    async def wait(self, timeout: float | None = None, *, statuses: Iterable[Status | str] | None = None) -> AsyncJob:
        """Wait until the job is at rest and return it; see AsyncClient.wait."""
        return await self._client.wait(self.id, timeout, statuses=statuses)

    def follow(self, *, log_after: int | None = 0) -> AsyncIterator[Update]:
        """Yield the job's changes, progress and log lines until it is at rest; see AsyncClient.follow."""
        return self._client.follow(self.id, log_after=log_after)

    async def halt(self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None) -> AsyncJob:
        """Halt the job; see AsyncClient.halt."""
        return await self._client.halt(self.id, wait=wait, reason=reason, if_match=if_match)

    async def resume(self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None) -> AsyncJob:
        """Resume the job; see AsyncClient.resume."""
        return await self._client.resume(self.id, wait=wait, reason=reason, if_match=if_match)

    async def stop(
        self, *, wait: float = 0, reason: str | None = None, if_match: str | None = None, force: bool = False
    ) -> AsyncJob:
        """Stop the job for good; see AsyncClient.stop."""
        return await self._client.stop(self.id, wait=wait, reason=reason, if_match=if_match, force=force)

    async def changes(self) -> list[Change]:
        """Return the job's status changes, oldest first."""
        return await self._client.changes(self.id)

    def log(self, *, after: int = 0) -> AsyncIterator[LogLine]:
        """Yield the job's log lines numbered above *after*."""
        return self._client.log(self.id, after=after)

    async def download(self, to: str | Path | BinaryIO | None = None) -> Path | None:
        """Download the job's file; see AsyncClient.download."""
        return await self._client.download(self.id, to)


class AsyncClient:
    """Client of the job manager at a URL. Coroutines of one event loop may share it.

    Close it, or use it as a context manager. If you leave an iteration early, close the iterator, too, with
    `contextlib.aclosing`.

    If the server does not answer, or answers 429, 502, 503 or 504, retries for *retry_seconds*, then raises Unreachable
    or the server's error. All methods may raise Unreachable, Unexpected, Refused, Unauthenticated, Forbidden,
    RateLimited, TokensUnavailable and StoreUnavailable, in addition to the errors in their docstrings.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        retry_seconds: float = 30.0,
        timeout_seconds: float = 30.0,
    ) -> None:
        """Check the URL and the token; raises ConfigError. Opens no connection yet."""
        self._http = httpx.AsyncClient(**http.options(url, token, timeout_seconds))
        self._core: Core[AsyncJob] = Core(url, self._make_job, retry_seconds=retry_seconds)

    async def close(self) -> None:
        """Close all open connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # Submit and read

    async def submit(
        self,
        type: str,  # noqa: A002 - its name in the API
        args: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        timeout_seconds: float | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Submit a job. Once this returns, the job survives any crash.

        Retries do not create a second job: the request carries *idempotency_key*, or a generated key.
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
        """Submit many jobs, all or none, and return their ids.

        Does not retry after a lost reply, but raises Unreachable. The jobs may have been stored.
        Raises InvalidRequest (also if a submission has an idempotency key), QueueFull.
        """
        return await self._run(self._core.submit_all(submissions))

    async def get(self, job_id: str) -> AsyncJob:
        """Return the job as it is now. Raises UnknownJob."""
        return await self._run(self._core.get(job_id))

    def list(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> Jobs:
        """Yield the jobs that match the filters, newest first. Loads one page at a time."""
        return self._iterate(self._core.jobs(filters, limit))

    async def changes(self, job_id: str) -> Changes:
        """Return the job's status changes, oldest first. Raises UnknownJob."""
        return await self._run(self._core.changes(job_id))

    def log(self, job_id: str, *, after: int = 0) -> AsyncIterator[LogLine]:
        """Yield the job's log lines numbered above *after*. Raises UnknownJob."""
        return self._iterate(self._core.log(job_id, after))

    async def job_types(self) -> Types:
        """Return the job types that can be submitted."""
        return await self._run(self._core.job_types())

    # Halt, resume, stop: idempotent, so that retries are safe

    async def halt(
        self, job_id: str, *, wait: float = 0, reason: str | None = None, if_match: str | None = None
    ) -> AsyncJob:
        """Pause the job and keep its state. Wait up to *wait* seconds until it is halted.

        *if_match* is the `etag` of a snapshot: if the job has changed since, changes nothing and raises Outdated.
        Raises UnknownJob, NotAllowed, Outdated.
        """
        return await self._run(self._core.control(Action.HALT, job_id, wait=wait, reason=reason, if_match=if_match))

    async def resume(
        self, job_id: str, *, wait: float = 0, reason: str | None = None, if_match: str | None = None
    ) -> AsyncJob:
        """Continue a halted or failed job where it left off. Wait up to *wait* seconds until it runs.

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
        """Stop the job for good and roll back its work. Wait up to *wait* seconds until that is done.

        *force* interrupts Python code that reaches no checkpoint. For *if_match* see `halt`.
        Raises UnknownJob, NotAllowed, Outdated.
        """
        flow = self._core.control(Action.STOP, job_id, wait=wait, reason=reason, if_match=if_match, force=force)
        return await self._run(flow)

    async def halt_all(self, *, all: bool = False, reason: str | None = None, **filters: Unpack[Filters]) -> BulkResult:  # noqa: A002
        """Halt all jobs that match the filters, without waiting. Without a filter, pass all=True.

        If the reply is lost, sends the request again. The result is then that of the second request: jobs that the
        first request has changed count as unchanged.
        Raises InvalidRequest if a filter is empty, or if there is neither a filter nor all=True.
        """
        return await self._run(self._core.control_all(Action.HALT, filters, all=all, reason=reason))

    async def resume_all(
        self,
        *,
        all: bool = False,  # noqa: A002
        reason: str | None = None,
        spread_seconds: float = 0,
        **filters: Unpack[Filters],
    ) -> BulkResult:
        """Resume all jobs that match the filters. Their starts are spread over *spread_seconds*. See `halt_all`."""
        flow = self._core.control_all(Action.RESUME, filters, all=all, reason=reason, spread_seconds=spread_seconds)
        return await self._run(flow)

    async def stop_all(
        self,
        *,
        all: bool = False,  # noqa: A002
        reason: str | None = None,
        force: bool = False,
        **filters: Unpack[Filters],
    ) -> BulkResult:
        """Stop all jobs that match the filters, without waiting; see `halt_all`."""
        return await self._run(self._core.control_all(Action.STOP, filters, all=all, reason=reason, force=force))

    # Wait and follow: these outlast a restart of the server and miss no change

    async def wait(
        self, job_id: str, timeout: float | None = None, *, statuses: Iterable[Status | str] | None = None
    ) -> AsyncJob:
        """Wait until the job is in one of the *statuses*, by default at rest, and return it.

        At rest means completed, failed, stopped or halted. Raises UnknownJob, and TimeoutError after *timeout* seconds.
        """
        return await self._run(self._core.wait(job_id, timeout, statuses))

    def follow(self, job_id: str, *, log_after: int | None = 0) -> AsyncIterator[Update]:
        """Yield each Change, JobProgress and LogLine of the job from now on; the last item is the AsyncJob, at rest.

        Log lines start after the one numbered *log_after*; None leaves them out. Raises UnknownJob.
        """
        return self._iterate(self._core.follow(job_id, log_after))

    def events(self, **filters: Unpack[Filters]) -> AsyncIterator[Change]:
        """Yield each change of the jobs that match the filters, from now on, without end.

        The filter `status` selects changes by their new status.
        """
        return self._iterate(self._core.events(filters))

    async def download(self, job_id: str, to: str | Path | BinaryIO | None = None) -> Path | None:
        """Download a completed job's file, verify its SHA-256 (if the job gave one), and return its path.

        *to* is the path of a file (replaced if it exists), a folder (default: the current one), or a binary stream
        (returns None). Continues a download that broke off, even in an earlier call.
        Raises UnknownJob, NotFound (no file), FileExistsError (the folder has a file of that name), Damaged, OSError.
        """
        return await self._run(self._core.download(job_id, to))

    def _make_job(self, shown: dict[str, Any]) -> AsyncJob:
        job = protocol.validate(AsyncJob, shown)
        job._client = self  # noqa: SLF001 - pydantic has no other way to set private attributes
        return job

    async def _run(self, flow: Flow[T]) -> T:
        driver = FlowDriver(flow)
        async with StepExecutor(self._http, driver) as executor:
            while (step := driver.next()) is not None:
                driver.answer(await executor.execute(step))
        return driver.result

    async def _iterate(self, flow: Flow[None]) -> AsyncIterator[Any]:
        driver = FlowDriver(flow)
        async with StepExecutor(self._http, driver) as executor:
            while (step := driver.next()) is not None:
                if isinstance(step, Emit):
                    yield step.value
                else:
                    driver.answer(await executor.execute(step))


class StepExecutor:
    """Executes the steps of one flow and holds its open stream."""

    def __init__(self, client: httpx.AsyncClient, driver: FlowDriver[Any]) -> None:
        self._http = client
        self._driver = driver
        self._stream: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> StepExecutor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._driver.close()
        await self._close()

    async def execute(self, step: Step) -> Reply | bytes | NoReply | None:
        """Execute a step and return its answer, or None if the step has no answer.

        Returns NoReply; does not raise it.
        """
        try:
            match step:
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Close():
                    await self._close()
                case Send(request):
                    response = await self._http.send(http.to_httpx(self._http, request))
                    return http.reply_of(response, response.content)
                case Open(request):
                    return await self._open(request)
                case Receive():
                    return await anext(self._chunks, b"") if self._chunks is not None else b""
        except httpx.RequestError as error:
            return http.no_reply_of(error)
        return None

    async def _open(self, request: protocol.Request) -> Reply:
        await self._close()
        response = await self._http.send(http.to_httpx(self._http, request), stream=True)
        if not response.is_success:
            async with aclosing(response):
                return http.reply_of(response, await response.aread())
        self._stream, self._chunks = response, response.aiter_bytes()
        return http.reply_of(response)

    async def _close(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        self._stream, self._chunks = None, None
