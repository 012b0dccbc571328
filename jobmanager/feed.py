"""Tell subscribers what happens to jobs: one reader of a process asks the store, however many follow.

Each change is given out once and in order, and none is missed: whoever comes back says what he has seen last, and is
told what happened since. This module starts no thread (the engine does, for the reader), and writes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from jobmanager.errors import StoreUnavailable, TooManyStreams
from jobmanager.records import News, Progress, Selection
from jobmanager.states import ATTENDED
from jobmanager.store import Store

#: How often progress is looked for; changes are looked for whenever something moved.
_PROGRESS_SECONDS = 0.5
#: The least time between two looks: what happened meanwhile is read at once.
_PACE_SECONDS = 0.025
#: How often it is looked whether a change that was held back can be given out.
_HELD_SECONDS = 0.01
#: How long changes are held back at most, by a transaction whose process is frozen, say.
_LONGEST_HOLD_SECONDS = 10.0
#: How long the reader rests after the store failed it.
_REST_SECONDS = 0.5
#: How far two clocks that tell when a checkpoint was saved may lie apart.
_CLOCK_SKEW = timedelta(seconds=2)
#: How many changes are read at once.
_PAGE = 500
#: How much may wait for a subscriber before he has to read it from the store himself.
_LONGEST_QUEUE = 2000

#: What a subscriber is told.
Told = News | Progress

_log = logging.getLogger(__name__)


class ReadNews(Protocol):
    """Reads changes from the store, as Store.news does."""

    def __call__(self, *, after: int, upto: int, job_id: str | None, limit: int) -> list[News]:
        """Return changes, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """What a subscriber wants to be told of."""

    #: this job only
    job_id: str | None = None
    #: of its fields, statuses, type, types and labels count; the statuses are those that changes lead to
    selection: Selection = field(default_factory=Selection)

    def covers(self, told: Told) -> bool:
        """Tell whether the subscriber wants to know."""
        job = told.progress if isinstance(told, News) else told
        status = told.change.to_status if isinstance(told, News) else told.status
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

    Where several transactions write at once (PostgreSQL), numbers are not committed in order: a reader that asks for
    what is above the last number would miss a lower one that is committed later. So whatever lies behind a gap is held
    back until no transaction is left that could fill it. Those are known by the lock that they hold on the table from
    before they take a number until they have ended; a number that was rolled back, or removed, leaves none behind.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        #: everything up to this number has been given out, or will never be there
        self.position = 0
        #: there is more to read at once
        self.has_more = False
        self._end = 0  # the last number that was seen when the writers were
        self._writers: set[str] | None = None  # transactions that may fill the gap; None: nothing is held back
        self._held_since = 0.0

    @property
    def is_held_back(self) -> bool:
        """True if there are changes that cannot be given out yet."""
        return self._writers is not None

    def begin(self) -> None:
        """Go to the end: everything committed from now on will be read. Waits for writes that are under way."""
        end = self._store.last_change()
        writers, deadline = self._store.change_writers(), time.monotonic() + _LONGEST_HOLD_SECONDS
        while writers and time.monotonic() < deadline:
            time.sleep(_HELD_SECONDS)
            writers &= self._store.change_writers()
        self.position, self._writers, self.has_more = end, None, False

    def read(self) -> list[News]:
        """Return what came to be known since the last time; raises StoreUnavailable."""
        found = self._store.news(after=self.position, limit=_PAGE)
        self.has_more = len(found) == _PAGE
        ready = _without_gap(found, self.position)
        if len(ready) == len(found):
            self._writers = None
        elif self._is_settled(found[-1].change.seq):
            # What was committed between that look and now belongs to it.
            ready = self._store.news(after=self.position, upto=self._end, limit=_PAGE)
            self.has_more, self._writers = True, None
        if ready:
            self.position = ready[-1].change.seq
        return ready

    def _is_settled(self, end: int) -> bool:
        """Tell whether no gap below the last number seen can be filled any more."""
        writers = self._store.change_writers()
        if self._writers is None:
            self._end, self._writers, self._held_since = end, writers, time.monotonic()
        self._writers &= writers
        if self._writers and time.monotonic() - self._held_since > _LONGEST_HOLD_SECONDS:
            _log.warning("A transaction does not end; changes it makes may be missing from streams.")
            return True
        return not self._writers


def _without_gap(found: list[News], position: int) -> list[News]:
    """Return the beginning of what was found, up to the first number that is missing."""
    if found and found[-1].change.seq == position + len(found):
        return found
    expected = range(position + 1, position + 1 + len(found))
    return [news for news, number in zip(found, expected, strict=True) if news.change.seq == number]


class Feed:
    """The reader of a process, and those who are told. Any thread may call the public methods."""

    def __init__(self, store: Store, *, limit: int, start_reader: Callable[[], None]) -> None:
        """*start_reader* has a new thread call `run`, which returns when nobody is left who is told."""
        self._store = store
        self._limit = limit
        self._start_reader = start_reader
        self._tail = Tail(store)  # the reader's, and of whoever begins it under _beginning
        self._beginning = threading.Lock()  # held while the reader's place is looked for; taken before _lock
        # Guards _subscriptions, _reserved, _position, _is_read, _is_over; not held while calling the store.
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        self._reserved = 0  # places of those who are about to subscribe
        self._position = 0  # everything up to this number has been told
        self._is_read = False  # there is a reader, or it is about to begin
        self._is_over = False
        self._told: dict[str, int] = {}  # by job: the checkpoint that was told last
        self._looked_at = 0.0  # when progress was looked for, by the monotonic clock

    # Called by other threads

    def subscribe(self, interest: Interest, *, after: int | None, read: ReadNews) -> Subscription:
        """Return what tells of everything from now on, or of all changes numbered above *after*; to be closed.

        Raises TooManyStreams, StoreUnavailable.
        """
        with self._lock:
            if len(self._subscriptions) + self._reserved >= self._limit:
                raise TooManyStreams(self._limit)
            self._reserved += 1
        try:
            return self._subscribe(interest, after, read)
        finally:
            with self._lock:
                self._reserved -= 1

    def end(self) -> None:
        """End every subscription, and the reader; may be called again and again."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            for subscription in self._subscriptions:
                subscription.end()

    def position(self) -> int:
        """Return the number up to which everything has been told."""
        return self._position

    def join(self, subscription: Subscription, position: int) -> bool:
        """Have a subscriber who has read everything up to *position* told of the rest; False if that is too little."""
        with self._lock:
            if position < self._position:
                return False
            subscription.is_behind = False
            return True

    def leave(self, subscription: Subscription) -> None:
        """Tell the subscriber nothing more."""
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    def _subscribe(self, interest: Interest, after: int | None, read: ReadNews) -> Subscription:
        with self._beginning:
            if not self._subscriptions:
                # Nobody was told of anything for a while: begin where things stand now.
                self._tail.begin()
                with self._lock:
                    self._position = self._tail.position
            position = self._position
            if after is None or (after > position and after > self._store.last_change()):
                after = position  # of another store, or of one that was put back to an earlier state
            subscription = Subscription(self, interest, after, read)
            subscription.is_behind = after < position
            with self._lock:
                if self._is_over:
                    subscription.end()
                elif not self._is_read:
                    self._start_reader()  # it waits for the lock; where there are no more threads, this raises
                    self._is_read = True
                self._subscriptions.append(subscription)
        return subscription

    # The reader's thread

    def run(self, moves: Callable[[], int], wait_for_move: Callable[[int, float], None]) -> None:
        """Read and tell until nobody is told any more; *moves* grows whenever there may be something to read."""
        while self._has_subscribers():
            began, seen = time.monotonic(), moves()
            try:
                patience = self._turn()
            except StoreUnavailable as error:
                _log.warning("Streams go on in a moment: %s", error)
                patience = _REST_SECONDS
            except Exception:
                _log.exception("Streams go on in a moment.")
                patience = _REST_SECONDS
            if patience:
                wait_for_move(seen, patience)
            time.sleep(max(0.0, began + _PACE_SECONDS - time.monotonic()))

    def _has_subscribers(self) -> bool:
        """Tell whether there is anyone to tell; if not, the reader ends."""
        with self._lock:
            self._is_read = bool(self._subscriptions) and not self._is_over
            return self._is_read

    def _turn(self) -> float:
        """Tell what is new; returns how long to wait for the next move."""
        with self._beginning:
            told: list[Told] = []
            for news in self._tail.read():
                told += self._standing_at_its_end(news)
                told.append(news)
            told += self._progress()
            self._tell(told, self._tail.position)
            if self._tail.has_more:
                return 0.0
            return _HELD_SECONDS if self._tail.is_held_back else _PROGRESS_SECONDS

    def _standing_at_its_end(self, news: News) -> list[Told]:
        """Return how far the job was when its attempt ended, unless that was told."""
        change, progress = news.change, news.progress
        has_ended = change.from_status in ATTENDED and change.to_status not in ATTENDED
        if not has_ended or progress.checkpoint.seq <= self._told.get(change.job_id, 0):
            return []
        self._told[change.job_id] = progress.checkpoint.seq
        return [progress]

    def _progress(self) -> list[Told]:
        """Return how far jobs have come, of those that saved a checkpoint since the last look."""
        now = time.monotonic()
        if now - self._looked_at < _PROGRESS_SECONDS:
            return []
        since = self._store.now() - timedelta(seconds=min(now - self._looked_at, 60.0)) - _CLOCK_SKEW
        found = self._store.progress(since=since)
        self._looked_at = now
        news = [progress for progress in found if progress.checkpoint.seq != self._told.get(progress.job_id)]
        self._told = {progress.job_id: progress.checkpoint.seq for progress in found}
        return list(news)

    def _tell(self, told: list[Told], position: int) -> None:
        with self._lock:
            self._position = position
            for subscription in self._subscriptions:
                subscription.put(told, position)


class Subscription:
    """What one subscriber is told, and how far he has come. For one thread, but for `put` and `end`.

    It begins with what the store has above the number that he gives. Where he takes so slowly that too much waits, that
    is forgotten, and he goes on from the store again.
    """

    def __init__(self, feed: Feed, interest: Interest, after: int, read: ReadNews) -> None:
        #: all that he wants to know up to this number was taken
        self.position = after
        #: it will tell nothing more
        self.is_over = False
        #: it has to be read from the store what the feed has told meanwhile; changed by the feed under its lock
        self.is_behind = True
        self._feed = feed
        self._interest = interest
        self._read = read
        self._came = threading.Condition()  # guards _waiting, _reached; notified with them, and at the end
        self._waiting: list[Told] = []
        self._reached = after  # where he is when he has taken what waits

    def take(self, timeout_seconds: float) -> list[Told]:
        """Return what there is to tell, as soon as there is anything; nothing after *timeout_seconds*, or earlier.

        Raises StoreUnavailable, also when the service shuts down.
        """
        if self.is_behind:
            return self._catch_up()
        with self._came:
            self._came.wait_for(lambda: self._waiting or self.is_behind or self.is_over, timeout_seconds)
            if self.is_behind:
                return []
            taken, self._waiting = self._waiting, []
            self.position = max(self.position, self._reached)
        return taken

    def close(self) -> None:
        """Be told nothing more; may be called twice."""
        self.end()
        self._feed.leave(self)

    def put(self, told: list[Told], position: int) -> None:
        """Be told; called by the feed, which has told everything up to *position* by this."""
        if self.is_behind:
            return
        wanted = [one for one in told if self._interest.covers(one)]
        with self._came:
            self._waiting += [one for one in wanted if not isinstance(one, News) or one.change.seq > self.position]
            self._reached = position
            if len(self._waiting) > _LONGEST_QUEUE:
                self._waiting, self.is_behind = [], True
            if self._waiting or self.is_behind:
                self._came.notify_all()

    def end(self) -> None:
        """Have it tell nothing more; called by any thread."""
        with self._came:
            self.is_over = True
            self._came.notify_all()

    def _catch_up(self) -> list[Told]:
        upto = self._feed.position()
        if self.position >= upto:
            self._feed.join(self, self.position)
            return []
        page = self._read(after=self.position, upto=upto, job_id=self._interest.job_id, limit=_PAGE)
        self.position = page[-1].change.seq if len(page) == _PAGE else upto
        return [news for news in page if self._interest.covers(news)]
