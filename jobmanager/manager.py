"""JobManager: the only entry point for HTTP, the command line and embedders.

Thread-safe. Joins the store, which decides, and the engine, which acts. Its methods for jobs are those of VisibleJobs.
Has no rules of its own: see submission.py (valid submissions), bulk.py (requests for many jobs), artifacts.py (files),
health.py (unresponsive and stuck jobs), and runtime.py (start and close).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime

from jobmanager.config import Settings
from jobmanager.engine import retention
from jobmanager.engine.force import unforced
from jobmanager.engine.observers import Observers
from jobmanager.jobs import BUILT_IN
from jobmanager.observability.metrics import JobMetrics, StoreCollector, exposition
from jobmanager.observability.tracing import AttemptTraces
from jobmanager.registry import Registry, registry
from jobmanager.runtime import Runtime, open_store
from jobmanager.store import Store, note_standstill
from jobmanager.visible_jobs import VisibleJobs

#: How long `close` gives running jobs to reach a checkpoint, by default.
GRACE_SECONDS = 20.0


class JobManager(VisibleJobs):
    """Submits jobs, runs them in threads, and halts, resumes and stops them wherever they run.

    Opens nothing before `start`, so it may be made before a fork. As a context manager, it starts and closes:

        with JobManager(Settings(data_dir=Path("var"))) as manager:
            job = manager.submit("Simple", {"steps": 3})
    """

    def __init__(
        self,
        settings: Settings | None = None,
        types: Registry = registry,
        *,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """Read the settings from the environment if none are given. Raises ConfigError if a setting is invalid.

        *rng* returns random numbers from 0 to 1, which vary the delays of retries.
        """
        settings = settings or Settings.from_env()
        observers = Observers(JobMetrics(), AttemptTraces())
        super().__init__(Runtime(types, settings, observers, self._open_store, rng), types, settings, observers)
        self._collector = StoreCollector(lambda: self._runtime.start().store)
        for job_type in BUILT_IN:
            types.register(job_type)
        types.load_entry_points()

    def start(self) -> None:
        """Open the store and begin to run jobs. Optional: every method that needs the store calls this.

        Does nothing if the manager has started. Raises ConfigError or StoreUnavailable; after `close`, the latter.
        """
        self._runtime.start()

    def check(self) -> None:
        """Raise ConfigError or StoreUnavailable if `start` would fail. Leaves nothing open, so a fork may follow."""
        with unforced():
            self._open_store().close()

    def begin_shutdown(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop claiming, and begin to hand over running jobs. Does not block; safe in a signal handler."""
        self._runtime.begin_shutdown(grace_seconds)

    def close(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Save and hand over running jobs, end all threads, close the store. Blocks; may be called twice."""
        self._runtime.close(grace_seconds)

    def __enter__(self) -> JobManager:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ping(self) -> None:
        """Return if the store answers; raise StoreUnavailable if not."""
        with self._runtime.call() as (store, _):
            store.ping()

    def metrics(self) -> bytes:
        """Return the metrics of the service, in the text format of Prometheus."""
        with unforced(), self._runtime.calls:
            return exposition(self._collector, self.settings.metrics_dir)

    def prune(self, *, before: datetime | None = None, keep: int | None = None) -> int:
        """Remove jobs that finished before *before*, and those beyond the newest *keep*. Return how many.

        Their changes, logs and files go with them; see engine/retention.py. Blocks until all are removed.
        """
        with self._runtime.call() as (store, _):
            return retention.prune(store, self.settings.data_dir, before=before, keep=keep, seconds=float("inf"))

    def release_process(self, pid: int) -> int:
        """Hand over the jobs of a process on this machine that hangs, without counting a crash.

        Returns the number of these jobs. The threads of the process can write nothing more. Waits for rows that the
        process has locked. Raises StoreUnavailable.
        """
        note_standstill(self.settings.database_url, pid)
        with self._runtime.call() as (store, engine):
            released = store.release_process(pid)
            for applied in released:
                self._observers.job_changed(applied)
                engine.deliver(applied)
            return len(released)

    def _open_store(self) -> Store:
        return open_store(self.settings)
