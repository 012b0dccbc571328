"""Follow changes of jobs by the server's event stream, and by polling while there is no stream.

The server may refuse a stream if too many are open, and a stream may break at any moment. Polling then finds the missed
changes, so that each change is returned exactly once. Does no I/O itself: see protocol.Flow.
"""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from jobmanager.client import protocol
from jobmanager.client.errors import Unexpected
from jobmanager.client.filters import Filters
from jobmanager.client.models import Change, JobProgress, Snapshot, progress_of
from jobmanager.client.protocol import Close, Flow, NoReply, Open, Pause, Receive, Reply, Request, job_path
from jobmanager.client.sse import Event, Parser
from jobmanager.core.outcomes import backoff
from jobmanager.core.states import Status
from jobmanager.errors import UnknownJob

if TYPE_CHECKING:
    from jobmanager.client.flows import Core

J = TypeVar("J", bound=Snapshot)
#: Fields of a job that show whether it has changed: at least one differs after any change.
State = tuple[object, ...]

#: A stream that sends nothing for this long, not even a heartbeat, is closed.
_SILENCE_SECONDS = 45.0
#: First and longest pause between two polls while there is no stream. The pause grows while nothing changes.
_LEAST_PAUSE_SECONDS = 0.1
_MOST_PAUSE_SECONDS = 2.0
#: Longest backoff after a refused stream; a longer Retry-After takes precedence.
_MOST_REFUSED_SECONDS = 30.0
#: Number of jobs whose last change is remembered; a change of a forgotten job may be returned twice.
_MOST_REMEMBERED = 100_000
#: Statuses of jobs that can still change.
_LIVE = tuple(status for status in Status if status not in (Status.COMPLETED, Status.STOPPED))


class Tail(Generic[J]):
    """Base class of JobTail (one job) and ListTail (all jobs that match a filter)."""

    #: time between two polls while a stream is open; these polls find changes that the stream has lost
    trust_seconds = 15.0

    def __init__(self, core: Core[J], path: str, query: Sequence[tuple[str, str]], deadline: float = math.inf) -> None:
        self._core = core
        self._path, self._query = path, tuple(query)
        self._deadline = deadline
        self._parser = Parser()
        self._is_open = False
        self._failures = 0
        self._opens_at = 0.0
        self._polled_at = 0.0
        self._pause_seconds = _LEAST_PAUSE_SECONDS

    def next(self) -> Flow[list[Change | JobProgress]]:
        """Wait for news, and return it. Returns an empty list if the wait ended without news."""
        if self._is_open and time.monotonic() - self._polled_at < self.trust_seconds:
            return (yield from self._read())
        if not self._is_open and time.monotonic() >= self._opens_at:
            yield from self._open()
        elif not self._is_open:
            yield Pause(self._seconds_to_next_poll())
        # Also poll right after opening a stream: the stream does not contain earlier changes.
        self._polled_at = time.monotonic()
        updates = yield from self._poll()
        is_news = any(isinstance(update, Change) for update in updates)
        self._pause_seconds = _LEAST_PAUSE_SECONDS if is_news else min(_MOST_PAUSE_SECONDS, self._pause_seconds * 1.5)
        return updates

    def _poll(self) -> Flow[list[Change | JobProgress]]:
        """Poll, and return the news since the last poll."""
        raise NotImplementedError

    def _take_news(self, updates: list[Change | JobProgress]) -> Flow[list[Change | JobProgress]]:
        """Return those *updates* from the stream that were not returned before."""
        raise NotImplementedError

    def _seconds_to_next_poll(self) -> float:
        now = time.monotonic()
        ends = (now + self._pause_seconds, self._opens_at, self._deadline)
        return max(0.01, min(ends) - now)

    def _open(self) -> Flow[None]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._parser.last_id:
            headers["Last-Event-ID"] = self._parser.last_id
        seconds = min(_SILENCE_SECONDS, max(0.1, self._deadline - time.monotonic()))
        request = Request(method="GET", path=self._path, query=self._query, headers=headers, read_seconds=seconds)
        try:
            reply: Reply = yield Open(request)
        except NoReply:
            self._back_off(0.0)
            return
        if reply.status == 200 and reply.headers.get("content-type", "").startswith("text/event-stream"):
            self._is_open = True
            self._parser.begin()
            return
        yield Close()
        # After a permanent error (the server has no streams, or forbids them), only poll: never request a stream again.
        is_temporary = protocol.is_temporary(reply, is_repeatable=True)
        self._back_off(protocol.retry_after_seconds(reply) if is_temporary else math.inf)

    def _back_off(self, least_seconds: float) -> None:
        self._failures += 1
        pause = backoff(self._failures, base=_LEAST_PAUSE_SECONDS, cap=_MOST_REFUSED_SECONDS)
        self._opens_at = time.monotonic() + max(least_seconds, pause)

    def _read(self) -> Flow[list[Change | JobProgress]]:
        try:
            chunk: bytes = yield Receive()
        except NoReply:
            chunk = b""
        if not chunk:
            self._is_open = False
            self._back_off(0.0)
            yield Close()
            return []
        updates = [update for event in self._parser.feed(chunk) if (update := _update_of(event)) is not None]
        if updates:
            self._failures = 0
        return (yield from self._take_news(updates))


class JobTail(Tail[J]):
    """Follows one job, beginning with the snapshot *job*.

    *seen* are the changes that the caller already has. If *seen* is None, polls load only the job, not its changes.
    """

    def __init__(
        self, core: Core[J], job: J, *, seen: Iterable[Change] | None = None, deadline: float = math.inf
    ) -> None:
        super().__init__(core, job_path(job.id, "events"), (), deadline)
        #: the last snapshot
        self.job = job
        self._seq = max((change.seq for change in seen or ()), default=0)
        # With *seen*, the first poll loads the changes: the job may have changed after the caller read *seen*.
        self._known = _state_of(job) if seen is None else None
        self._wants_changes = seen is not None
        self._checkpoint_seq = progress_of(job).checkpoint_seq

    @property
    def is_caught_up(self) -> bool:
        """Return True if all changes that led to the current snapshot were returned, or if changes are not loaded."""
        return not self._wants_changes or self._known == _state_of(self.job)

    def _poll(self) -> Flow[list[Change | JobProgress]]:
        job = yield from self._core.get(self.job.id)
        changes: list[Change] = []
        if self._wants_changes and _state_of(job) != self._known:
            changes = self._take_new_changes((yield from self._core.changes(job.id)))
        self.job, self._known = job, _state_of(job)
        if changes and changes[-1].to_status != job.status:
            # The last change came after the snapshot, and the stream will not repeat it: load a new snapshot.
            yield from self._reload_job(changes)
        return [*changes, *self._newer_progress([progress_of(self.job)])]

    def _take_news(self, updates: list[Change | JobProgress]) -> Flow[list[Change | JobProgress]]:
        changes = self._take_new_changes(update for update in updates if isinstance(update, Change))
        if changes:
            yield from self._reload_job(changes)
        farther = self._newer_progress(update for update in updates if isinstance(update, JobProgress))
        return [update for update in updates if update in changes or update in farther]

    def _reload_job(self, changes: Sequence[Change]) -> Flow[None]:
        """Load a new snapshot, because *changes* may be newer than the current one."""
        self.job = yield from self._core.get(self.job.id)
        # If the snapshot is already ahead of these changes, the next poll loads the rest.
        self._known = _state_of(self.job) if self.job.status == changes[-1].to_status else None

    def _newer_progress(self, told: Iterable[JobProgress]) -> list[JobProgress]:
        """Return only progress that was not returned before. The stream may repeat progress that a poll has found."""
        newer: list[JobProgress] = []
        for progress in told:
            if progress.checkpoint_seq > self._checkpoint_seq:
                self._checkpoint_seq = progress.checkpoint_seq
                newer.append(progress)
        return newer

    def _take_new_changes(self, changes: Iterable[Change]) -> list[Change]:
        new = [change for change in changes if change.seq > self._seq]
        self._seq = max((change.seq for change in new), default=self._seq)
        return new


class ListTail(Tail[J]):
    """Follows the changes of all jobs that match a filter, from now on. *query* is that filter as query parameters."""

    # Poll once when a stream opens, and never while the stream is open: polling the whole list is expensive.
    trust_seconds = math.inf

    def __init__(self, core: Core[J], filters: Filters, query: Sequence[tuple[str, str]]) -> None:
        super().__init__(core, "/events", query)
        status = filters.get("status") or ()
        self._statuses = {Status(each) for each in ([status] if isinstance(status, str) else status)}
        self._filters: Filters = {**filters, "status": ()}
        #: job id → seq of its last change that was returned
        self._seqs: OrderedDict[str, int] = OrderedDict()
        #: all changes up to this seq were returned
        self._floor = 0
        #: job id → state, of the jobs that were not final at the last poll; None before the first poll
        self._live: dict[str, State] | None = None
        #: submission time of the newest job found by a poll
        self._newest_at: datetime | None = None
        #: time of the first poll, by the server's clock
        self._began_at: datetime | None = None

    def _poll(self) -> Flow[list[Change | JobProgress]]:
        before = self._live
        newer: Filters = {**self._filters}
        if self._newest_at is not None:
            newer["submitted_after"] = self._newest_at
        now = yield from self._states({**self._filters, "status": _LIVE})
        if before is not None:
            # Also load jobs that were submitted since the last poll: they may have finished already.
            now |= yield from self._states(newer)
        self._live = {job_id: state for job_id, state in now.items() if state[0] in _LIVE}
        if before is None:
            return []
        moved = [job_id for job_id, state in now.items() if before.get(job_id) != state] + list(before.keys() - now)
        changes: list[Change] = []
        for job_id in moved:
            try:
                changes += yield from self._core.changes(job_id)
            except UnknownJob:
                continue  # removed meanwhile
        news = [change for change in sorted(changes, key=lambda change: change.seq) if self._record_if_new(change)]
        return [change for change in news if not self._statuses or change.to_status in self._statuses]

    def _take_news(self, updates: list[Change | JobProgress]) -> Flow[list[Change | JobProgress]]:
        news: list[Change | JobProgress] = []
        for update in updates:
            if isinstance(update, Change) and self._record_if_new(update):
                news.append(update)
                self._floor = max(self._floor, update.seq)
        return news
        yield  # unreachable: makes this a generator, like the other flows

    def _record_if_new(self, change: Change) -> bool:
        """Return True if the change was not returned yet, and record it as returned."""
        given = self._seqs.get(change.job_id)
        is_late = self._floor or self._began_at is None or change.at >= self._began_at
        if change.seq <= (self._floor if given is None else given) or (given is None and not is_late):
            return False
        self._seqs[change.job_id] = change.seq
        self._seqs.move_to_end(change.job_id)
        if len(self._seqs) > _MOST_REMEMBERED:
            self._seqs.popitem(last=False)
        return True

    def _states(self, filters: Filters) -> Flow[dict[str, State]]:
        """Return the state of each job that matches the filter."""
        found: dict[str, State] = {}
        cursor: str | None = None
        while True:
            page = yield from self._core.page(filters, 500, cursor)
            if self._live is None and self._began_at is None:
                # Remember the time of the first poll: jobs that finished earlier are not news.
                self._began_at = self._newest_at = page.shown_at
            for shown in page.jobs:
                job = self._core.job_of(shown)
                found[job.id] = _state_of(job)
                self._newest_at = max(self._newest_at or job.submitted_at, job.submitted_at)
            cursor = page.next_cursor
            if cursor is None:
                return found


def _state_of(job: Snapshot) -> State:
    """Return the fields that show whether the job has changed."""
    return (job.status, job.attempt, job.failures, job.crashes, job.forced, job.asked_at, job.run_at)


def _update_of(event: Event) -> Change | JobProgress | None:
    """Parse an event; None if its type is unknown. Raises Unexpected if its data is invalid."""
    try:
        if event.name == "change":
            return protocol.validate(Change, json.loads(event.data))
        return protocol.validate(JobProgress, json.loads(event.data)) if event.name == "progress" else None
    except ValueError:
        raise Unexpected("The server's event stream contains invalid JSON.") from None
