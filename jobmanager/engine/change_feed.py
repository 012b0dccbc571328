"""Deliver the changes and progress of jobs to subscribers: one reader per process polls the store for all of them.

Each change is delivered once and in order, and none is missed: a returning client sends the last number it saw and
receives everything since. This module starts no thread (the engine starts the reader's), and writes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from jobmanager.core.states import ATTENDED
from jobmanager.core.values import News, Progress, Selection
from jobmanager.engine.force import unforced
from jobmanager.engine.wakeup import StatusVersion
from jobmanager.errors import StoreUnavailable, TooManyStreams
from jobmanager.store import Store

#: How often to look for progress. Changes are also looked for whenever a commit is noticed.
_PROGRESS_SECONDS = 0.5
#: Least time between two reads: changes in between are read together.
_PACE_SECONDS = 0.025
#: How often to check whether changes that are held back can be delivered.
_HELD_SECONDS = 0.01
#: Longest time for which changes are held back, for example by a transaction whose process is frozen.
_LONGEST_HOLD_SECONDS = 10.0
#: Pause of the reader after a failure.
_REST_SECONDS = 0.5
#: How much the clocks that set the times of checkpoints may differ.
_CLOCK_SKEW = timedelta(seconds=2)
#: Most changes read at once.
_PAGE = 500
#: Queue length above which a slow subscriber reads from the store instead.
LONGEST_QUEUE = 2000

#: A message to subscribers.
Message = News | Progress

_log = logging.getLogger(__name__)


class ReadNews(Protocol):
    """A function that reads changes from the store, like Store.news."""

    def __call__(self, *, after: int, upto: int, job_id: str | None, limit: int) -> list[News]:
        """Return changes, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """Filter for the changes and progress that a subscriber receives."""

    #: this job only; None: all jobs
    job_id: str | None = None
    #: only its statuses (compared with the new status of a change), type, types and labels are used
    selection: Selection = field(default_factory=Selection)

    def covers(self, message: Message) -> bool:
        """Return True if the subscriber receives this message."""
        job = message.progress if isinstance(message, News) else message
        status = message.change.to_status if isinstance(message, News) else message.status
        wanted = self.selection
        return (
            self.job_id in (None, job.job_id)
            and (not wanted.statuses or status in wanted.statuses)
            and wanted.type in (None, job.type)
            and (wanted.types is None or job.type in wanted.types)
            and wanted.labels.items() <= job.labels.items()
        )


class Tail:
    """Reads changes as they are committed: each once, in the order of their numbers, and none is left out.

    If several transactions write at once (PostgreSQL), numbers are not committed in order: a reader that asks for
    numbers above the last one would miss a lower one that is committed later. So changes after a gap are held back
    until no transaction is left that could fill the gap. A transaction locks the table before it takes a number, and
    holds the lock until it has ended. If no transaction holds the lock, the missing change was rolled back or removed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        #: all changes up to this number were read or skipped, or will never exist
        self.position = 0
        #: more changes can be read at once
        self.has_more = False
        self._end = 0  # the last number seen when the first change was held back
        self._writers: set[str] | None = None  # transactions that may fill a gap below _end; None: nothing is held back
        self._held_since = 0.0

    @property
    def is_held_back(self) -> bool:
        """True if there are changes that cannot be returned yet."""
        return self._writers is not None

    def begin(self) -> None:
        """Go to the last change, to read everything committed from now on. Waits up to 10 s for writes under way.

        Raises StoreUnavailable.
        """
        end = self._store.last_change()
        writers, deadline = self._store.change_writers(), time.monotonic() + _LONGEST_HOLD_SECONDS
        while writers and time.monotonic() < deadline:
            time.sleep(_HELD_SECONDS)
            writers &= self._store.change_writers()
        self.position, self._writers, self.has_more = end, None, False

    def read(self) -> list[News]:
        """Return the next changes, if any. Leaves out those held back after a gap. Raises StoreUnavailable."""
        found = self._store.news(after=self.position, limit=_PAGE)
        self.has_more = len(found) == _PAGE
        ready = _without_gap(found, self.position)
        if len(ready) == len(found):
            self._writers = None
        elif self._gap_is_final(found[-1].change.seq):
            # Read again: the gap may have been filled between the first read and the check.
            ready = self._store.news(after=self.position, upto=self._end, limit=_PAGE)
            self.has_more, self._writers = True, None
        if ready:
            self.position = ready[-1].change.seq
        return ready

    def _gap_is_final(self, end: int) -> bool:
        """Return True if no transaction is left that can fill a gap below _end; set _end to *end* at the first call.

        After _LONGEST_HOLD_SECONDS, warns and returns True.
        """
        writers = self._store.change_writers()
        if self._writers is None:
            self._end, self._writers, self._held_since = end, writers, time.monotonic()
        self._writers &= writers
        if self._writers and time.monotonic() - self._held_since > _LONGEST_HOLD_SECONDS:
            _log.warning("A transaction has been open for too long. Its changes may be missing from streams.")
            return True
        return not self._writers


def _without_gap(found: list[News], position: int) -> list[News]:
    """Return the changes whose numbers follow *position* without a gap."""
    if found and found[-1].change.seq == position + len(found):
        return found
    expected = range(position + 1, position + 1 + len(found))
    return [news for news, number in zip(found, expected, strict=True) if news.change.seq == number]


class Feed:
    """Reads changes and progress from the store for all subscribers of a process.

    Any thread may call the public methods.
    """

    def __init__(self, store: Store, *, limit: int, start_reader: Callable[[], None]) -> None:
        """*start_reader* starts a thread that calls `run`, which returns when no subscriber is left."""
        self._store = store
        self._limit = limit
        self._start_reader = start_reader
        self._tail = Tail(store)  # used only while holding _beginning
        self._beginning = threading.Lock()  # guards _tail; taken before _lock
        # Guards _subscriptions, _reserved, _position, _is_read, _is_over; not held while calling the store.
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        self._reserved = 0  # places of threads that are about to subscribe
        self._position = 0  # all changes up to this number have been delivered
        self._is_read = False  # the reader runs, or is about to
        self._is_over = False
        self._delivered: dict[str, int] = {}  # by job: seq of the checkpoint that was delivered last
        self._looked_at = 0.0  # when progress was last looked for (monotonic)

    # Called by other threads

    def subscribe(self, interest: Interest, *, after: int | None, read: ReadNews) -> Subscription:
        """Return a subscription, which the caller has to close. Raises TooManyStreams, StoreUnavailable.

        It begins with the changes numbered above *after*. If *after* is None, it begins with changes from now on.
        """
        with self._lock:
            if len(self._subscriptions) + self._reserved >= self._limit:
                raise TooManyStreams(self._limit)
            self._reserved += 1
        try:
            return self._subscribe(interest, after, read)
        except BaseException:
            with self._lock:
                self._reserved -= 1
            raise

    def end(self) -> None:
        """End every subscription and the reader. Does not wait for them; may be called more than once."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            for subscription in self._subscriptions:
                subscription.end()

    def position(self) -> int:
        """Return the number up to which all changes have been delivered."""
        return self._position

    def go_live(self, subscription: Subscription, position: int) -> bool:
        """Switch a subscriber that has read up to *position* to live delivery. Return False if it is still behind."""
        with self._lock:
            if position < self._position:
                return False
            subscription.is_behind = False
            return True

    def leave(self, subscription: Subscription) -> None:
        """Remove the subscriber."""
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    def _subscribe(self, interest: Interest, after: int | None, read: ReadNews) -> Subscription:
        with self._beginning:
            if not self._subscriptions:
                # Nothing was read without subscribers: begin at the last change.
                self._tail.begin()
                with self._lock:
                    self._position = self._tail.position
            position = self._position
            if after is None or (after > position and after > self._store.last_change()):
                after = position  # *after* is from another store, or from before a restore
            subscription = Subscription(self, interest, after, read)
            subscription.is_behind = after < position
            with self._lock:
                if self._is_over:
                    subscription.end()
                elif not self._is_read:
                    self._start_reader()  # the reader waits for the lock; RuntimeError: no more threads
                    self._is_read = True
                # Under one lock: counted twice for a moment, the subscription would refuse the place of another thread.
                self._subscriptions.append(subscription)
                self._reserved -= 1
        return subscription

    # The reader's thread

    def run(self, version: StatusVersion) -> None:
        """Read and deliver until there are no subscribers. *version* grows whenever there may be something to read."""
        while self._continue_or_end():
            began, seen = time.monotonic(), version.value()
            try:
                patience = self._turn()
            except StoreUnavailable as error:
                _log.warning("Changes could not be read for streams, and will be read again: %s", error)
                patience = _REST_SECONDS
            except Exception:
                _log.exception("Changes could not be read for streams, and will be read again.")
                patience = _REST_SECONDS
            if patience:
                version.wait(seen, patience)
            time.sleep(max(0.0, began + _PACE_SECONDS - time.monotonic()))

    def _continue_or_end(self) -> bool:
        """Return True if there are subscribers. If not, the reader ends: the next subscriber starts another one."""
        with self._lock:
            self._is_read = bool(self._subscriptions) and not self._is_over
            return self._is_read

    def _turn(self) -> float:
        """Deliver new changes and progress. Return the longest wait until the next turn, in seconds."""
        with self._beginning:
            messages: list[Message] = []
            for news in self._tail.read():
                messages += self._last_progress(news)
                messages.append(news)
            messages += self._progress()
            self._deliver(messages, self._tail.position)
            if self._tail.has_more:
                return 0.0
            return _HELD_SECONDS if self._tail.is_held_back else _PROGRESS_SECONDS

    def _last_progress(self, news: News) -> list[Message]:
        """Return the last progress of an attempt that this change has ended, unless it was delivered already."""
        change, progress = news.change, news.progress
        has_ended = change.from_status in ATTENDED and change.to_status not in ATTENDED
        if not has_ended or progress.checkpoint.seq <= self._delivered.get(change.job_id, 0):
            return []
        self._delivered[change.job_id] = progress.checkpoint.seq
        return [progress]

    def _progress(self) -> list[Message]:
        """Return the progress of jobs that saved a checkpoint since the last look."""
        now = time.monotonic()
        if now - self._looked_at < _PROGRESS_SECONDS:
            return []
        since = self._store.now() - timedelta(seconds=min(now - self._looked_at, 60.0)) - _CLOCK_SKEW
        found = self._store.progress(since=since)
        self._looked_at = now
        news = [progress for progress in found if progress.checkpoint.seq != self._delivered.get(progress.job_id)]
        self._delivered = {progress.job_id: progress.checkpoint.seq for progress in found}
        return list(news)

    def _deliver(self, messages: list[Message], position: int) -> None:
        with self._lock:
            self._position = position
            for subscription in self._subscriptions:
                subscription.put(messages, position)


class Subscription:
    """The queue of one subscriber, and its position. For one thread, except `put` and `end`.

    Begins with the changes numbered above *after*, read from the store. If a slow subscriber lets the queue grow too
    long, the queue is dropped, and the subscriber reads from the store again.
    """

    def __init__(self, feed: Feed, interest: Interest, after: int, read: ReadNews) -> None:
        #: all changes up to this number were taken, or are not of interest
        self.position = after
        #: nothing more will be delivered
        self.is_over = False
        #: the next changes have to be read from the store; changed by the feed under its lock
        self.is_behind = True
        self._feed = feed
        self._interest = interest
        self._read = read
        # Guards _waiting, _reached, _is_forced; notified when they change, and at the end.
        self._came = threading.Condition()
        self._is_forced = False  # force has come due for the job whose code waits here
        self._waiting: list[Message] = []
        self._reached = after  # the position when all of _waiting have been taken

    def next_events(self, timeout_seconds: float) -> list[Message]:
        """Block until there are messages, and return them. Return an empty list after *timeout_seconds*, or earlier.

        Raises StoreUnavailable if the store does not answer, and when the service shuts down. Raises StopRequested at
        once if a job's code waits here and force comes due.
        """
        self._is_forced = False
        with unforced(wake=self._wake):
            return self._catch_up() if self.is_behind else self._take(timeout_seconds)

    def close(self) -> None:
        """End the subscription and leave the feed. May be called twice."""
        with unforced():
            self.end()
            self._feed.leave(self)

    def put(self, messages: list[Message], position: int) -> None:
        """Queue the messages that the subscriber receives. The feed has now delivered all changes up to *position*."""
        if self.is_behind:
            return
        wanted = [one for one in messages if self._interest.covers(one)]
        with self._came:
            self._waiting += [one for one in wanted if not isinstance(one, News) or one.change.seq > self.position]
            self._reached = position
            if len(self._waiting) > LONGEST_QUEUE:
                self._waiting, self.is_behind = [], True
            if self._waiting or self.is_behind:
                self._came.notify_all()

    def end(self) -> None:
        """End the subscription, and wake its thread. Any thread may call this."""
        with self._came:
            self.is_over = True
            self._came.notify_all()

    def _wake(self) -> None:
        with self._came:
            self._is_forced = True
            self._came.notify_all()

    def _take(self, timeout_seconds: float) -> list[Message]:
        with self._came:
            self._came.wait_for(
                lambda: self._waiting or self.is_behind or self.is_over or self._is_forced, timeout_seconds
            )
            if self.is_behind:
                return []
            taken, self._waiting = self._waiting, []
            self.position = max(self.position, self._reached)
        return taken

    def _catch_up(self) -> list[Message]:
        upto = self._feed.position()
        if self.position >= upto:
            self._feed.go_live(self, self.position)
            return []
        page = self._read(after=self.position, upto=upto, job_id=self._interest.job_id, limit=_PAGE)
        self.position = page[-1].change.seq if len(page) == _PAGE else upto
        return [news for news in page if self._interest.covers(news)]
