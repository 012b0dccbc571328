"""Open the store and the engine of a manager on first use. Close them on request, after the calls in progress.

Thread-safe. Nothing is opened before `start`, so a process may fork before the first use.
This module does not know what the calls do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

from jobmanager.config import Settings
from jobmanager.core.job_log import LogLimits
from jobmanager.engine.dispatcher import Engine
from jobmanager.engine.force import unforced
from jobmanager.engine.observers import Observers
from jobmanager.errors import ConfigError, StoreUnavailable
from jobmanager.observability.metrics import TimedStore, has_slots
from jobmanager.private import make_folder
from jobmanager.registry import Registry
from jobmanager.store import Store

#: How long `close` waits for calls in progress to return.
_LAST_CALLS_SECONDS = 10.0


class CallsInProgress:
    """Counts the calls that use the store: a call is in progress while it holds this context manager."""

    def __init__(self) -> None:
        self._returned = threading.Condition()  # guards _number; notified whenever a call returns
        self._number = 0

    def __enter__(self) -> None:
        with self._returned:
            self._number += 1

    def __exit__(self, *_: object) -> None:
        with self._returned:
            self._number -= 1
            self._returned.notify_all()

    def wait_for_return(self, timeout_seconds: float) -> None:
        """Block until no call is in progress, for *timeout_seconds* at most."""
        with self._returned:
            self._returned.wait_for(lambda: self._number == 0, timeout_seconds)


class Opened(NamedTuple):
    """The open store and the running engine, between `start` and `close`."""

    store: Store
    engine: Engine


class Runtime:
    """The store and the engine of one manager, from the first call to `close`."""

    def __init__(
        self,
        types: Registry,
        settings: Settings,
        observers: Observers,
        open_store: Callable[[], Store],
        rng: Callable[[], float],
    ) -> None:
        """*rng* returns random numbers from 0 to 1, which vary the delays of retries."""
        self._types = types
        self._settings = settings
        self._observers = observers
        self._open_store = open_store
        self._rng = rng
        # Guards _refused_at, _refusal (when and why the last start failed), and changes of _opened.
        self._lock = threading.Lock()
        self._refused_at, self._refusal = float("-inf"), ""
        self._opened: Opened | None = None
        self._is_ending = False
        #: `close` waits for these
        self.calls = CallsInProgress()

    @contextmanager
    def call(self) -> Iterator[Opened]:
        """Yield the store and the engine for one call, which `close` waits for. Starts and raises like `start`.

        Force against a job whose code makes the call waits until the call has ended.
        """
        with unforced(), self.calls:
            yield self.start()

    def start(self) -> Opened:
        """Open the store and start the engine, unless that is done. Raises ConfigError, StoreUnavailable."""
        if (opened := self._opened) is not None:
            return opened
        if self._is_ending:
            # Checked without the lock: close holds it while it waits for calls in progress.
            raise _shutting_down()
        asked_at = time.monotonic()
        with unforced(), self._lock:
            if self._opened is not None:
                return self._opened
            if self._is_ending:
                # A request in progress must not start the manager again in a process that is ending.
                raise _shutting_down()
            if self._refused_at > asked_at:  # a start failed while this call waited: do not retry in turn
                raise StoreUnavailable(self._refusal)
            try:
                store = self._open_store()
            except StoreUnavailable as error:
                self._refused_at, self._refusal = time.monotonic(), str(error)
                raise
            engine = Engine(store, self._types, self._settings, self._observers, rng=self._rng)
            engine.start()
            self._opened = Opened(store, engine)
            has_slots(self._settings.slots)
            return self._opened

    def begin_shutdown(self, grace_seconds: float) -> None:
        """Stop claiming, and begin to hand over running jobs. Does not block; safe in a signal handler."""
        self._is_ending = True
        if (opened := self._opened) is not None:
            opened.engine.begin_shutdown(grace_seconds)

    def close(self, grace_seconds: float) -> None:
        """Save and hand over running jobs, end all threads, close the store. Blocks; may be called twice."""
        self._is_ending = True
        with unforced(), self._lock:
            if self._opened is None:
                return
            store, engine = self._opened
            engine.close(grace_seconds)  # until it returns, all calls work
            self._opened = None
            engine.notify()  # wake the threads that wait for a job
            self.calls.wait_for_return(_LAST_CALLS_SECONDS)
            store.close()


def open_store(settings: Settings) -> Store:
    """Open the store that the settings name, and make the data folder. Raises ConfigError, StoreUnavailable."""
    _make_data_dir(settings.data_dir)
    store = Store(
        settings.database_url,
        lease_seconds=settings.lease_seconds,
        max_crashes=settings.max_crashes,
        queue_limit=settings.queue_limit,
        log_limits=LogLimits(lines=settings.log_lines, bytes=settings.log_bytes),
    )
    return cast("Store", TimedStore(store))  # a TimedStore has all methods of a Store


def _make_data_dir(path: Path) -> None:
    try:
        make_folder(path)
        make_folder(path / "jobs")
    except OSError as error:
        raise ConfigError(f"JOBMANAGER_DATA_DIR cannot be used: {path}: {error.strerror}.") from None


def _shutting_down() -> StoreUnavailable:
    return StoreUnavailable("The service is shutting down. Try again later.")
