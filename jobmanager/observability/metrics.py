"""The metrics of the service, in the format of Prometheus.

Numbers of jobs are read from the store at each scrape: they are right in every process and after a restart.
Durations are observed where they happen, in histograms that all workers of a server share through files
(prometheus_client's multiprocess mode, see gunicorn_conf.py). The histograms restart at 0 with the server, which rate()
of Prometheus allows for. Durations are not derived from the recorded changes: each scrape would have to read all
changes, and the histograms would shrink whenever finished jobs are removed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from jobmanager.core.states import FINAL, Action, Status
from jobmanager.core.values import Applied, JobRecord
from jobmanager.errors import StoreUnavailable
from jobmanager.observability import counts
from jobmanager.store import Store

_log = logging.getLogger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)

#: Our own registry. The default one also has metrics of the process that answers, such as its memory.
REGISTRY = CollectorRegistry()

counts.use_allocated_files()
disable_created_metrics()  # type: ignore[no-untyped-call]  # a creation time of each metric would double the output

_WAITING = Histogram(
    "jobmanager_waiting_seconds",
    "Time from the moment a job is due to its claim, for first attempts and delayed jobs.",
    ["type"],
    buckets=(0.01, 0.05, *_LONG_SECONDS),
    registry=REGISTRY,
)
_RUN = Histogram(
    "jobmanager_run_seconds",
    "Run time of jobs that have ended, without the time that they were halted or waited for a slot.",
    ["type", "status"],
    buckets=(0.01, *_LONG_SECONDS),
    registry=REGISTRY,
)
_REACHED = Histogram(
    "jobmanager_halt_latency_seconds",
    "Time from the request to halt or stop a job until the job is halted or stopped.",
    ["type", "status"],
    buckets=(*_SECONDS, 60.0),
    registry=REGISTRY,
)
_CHANGES = Counter("jobmanager_changes", "Status changes of jobs, by action.", ["type", "action"], registry=REGISTRY)
_STORE = Histogram(
    "jobmanager_store_seconds", "Duration of store operations.", ["operation"], buckets=_SECONDS, registry=REGISTRY
)
_HTTP = Histogram(
    "jobmanager_http_request_seconds",
    "Time until a request is answered, or until a stream begins.",
    ["method", "route", "status"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
_SLOTS = Gauge(
    "jobmanager_slots",
    "Jobs that may run at once in the processes of this server.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
_STREAMS = Gauge("jobmanager_streams", "Clients that follow events.", multiprocess_mode="livesum", registry=REGISTRY)


def exposition(collector: StoreCollector, shared: Path | None) -> bytes:
    """Return all metrics in the text format.

    *shared* is the folder of the workers' shared metrics. None means that workers share no metrics.
    """
    registry, incomplete = REGISTRY, 0
    if shared is not None and shared.is_dir():
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(shared))  # type: ignore[no-untyped-call]
        incomplete = counts.incomplete_processes(shared)
    elif shared is not None:
        incomplete = 1  # at least one: the folder with the counts of the other processes is gone
    asked = CollectorRegistry()
    asked.register(collector)
    asked.register(_Incomplete(incomplete))
    return bytes(generate_latest(registry)) + bytes(generate_latest(asked))


def has_slots(number: int) -> None:
    """Set how many jobs may run at once in this process."""
    _SLOTS.set(number)


def stream_began() -> None:
    """Count one more client that follows events."""
    _STREAMS.inc()


def stream_ended() -> None:
    """Count one client fewer that follows events."""
    _STREAMS.dec()


def request_answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request and observe its duration."""
    _HTTP.labels(method, route, status).observe(seconds)


#: The store's methods whose durations are observed.
_OPERATIONS = {
    name: _STORE.labels(name)
    for name in (
        "get",
        "find",
        "checkpoint",
        "heartbeat",
        "look",
        "prune",
        "add",
        "add_all",
        "claim",
        "claim_to_clean",
        "apply",
        "apply_to_each",
        "settle",
        "expire",
    )
}


class TimedStore:
    """Passes every call on to a store, and observes how long the operations take."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        operation = _OPERATIONS.get(name)
        return value if operation is None else partial(_time_call, operation, value)


def _time_call(operation: Histogram, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    began = time.perf_counter()
    try:
        return method(*args, **kwargs)
    finally:
        _observe_seconds(operation, time.perf_counter() - began)


def _observe_seconds(operation: Histogram, seconds: float) -> None:
    try:
        operation.observe(seconds)
    except Exception:  # for example, the folder was removed; this must not change the outcome of the store's call
        _log.exception("The duration of a store call could not be observed.")


class JobMetrics:
    """An observer (see engine/observers.py) that counts the changes this process commits and observes durations."""

    def jobs_submitted(self, of_types: Mapping[str, int]) -> None:
        """Count submissions."""
        for name, number in of_types.items():
            _CHANGES.labels(name, Action.SUBMIT).inc(number)

    def attempt_began(self, job: JobRecord) -> None:
        """Count a claim, and observe how long the job waited for it."""
        _CHANGES.labels(job.type, Action.CLAIM).inc()
        # Observe only first attempts and delayed jobs, which have waited since run_at. After a resume, a handover or a
        # crash, the time at which the job began to wait again is not recorded.
        if job.running_since is not None and (job.attempt == 1 or job.run_at > job.submitted_at):
            _WAITING.labels(job.type).observe(_seconds(job.run_at, job.running_since))

    def attempt_ended(self, job_id: str, applied: Applied | None) -> None:
        """Do nothing: `job_changed` counts outcomes."""

    def job_changed(self, applied: Applied) -> None:
        """Count a change. Observe how long a halt or stop took to take effect, and how long an ended job has run."""
        job, change = applied.job, applied.change
        if change is None:
            return
        _CHANGES.labels(job.type, change.action).inc()
        if change.action is Action.YIELD:
            _REACHED.labels(job.type, change.to_status).observe(_seconds(change.asked_at, change.at))
        if change.to_status in FINAL or change.to_status is Status.FAILED:
            _RUN.labels(job.type, change.to_status).observe(job.ran_seconds)


class _Incomplete(Collector):
    """Collector for the number of processes whose counts are missing."""

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        """Yield one gauge."""
        yield GaugeMetricFamily(
            "jobmanager_counts_incomplete",
            "Processes of this server whose counts are missing here, for lack of space to share them.",
            value=self._processes,
        )


class StoreCollector(Collector):
    """Reads the metrics about the jobs of all processes from the store, at each scrape."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering this collector must not query the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, or only jobmanager_store_up = 0 if the store does not answer."""
        try:
            found = list(self._ask(self._store()))
        except StoreUnavailable:
            yield GaugeMetricFamily("jobmanager_store_up", "1 if the store answers.", value=0)
            return
        yield GaugeMetricFamily("jobmanager_store_up", "1 if the store answers.", value=1)
        yield from found

    def _ask(self, store: Store) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("jobmanager_jobs", "Jobs, by type and status.", labels=["type", "status"])
        for (name, status), number in store.count().items():
            jobs.add_metric([name, status], number)
        yield jobs
        queue = store.queue()
        now = store.now()
        yield GaugeMetricFamily("jobmanager_queue_depth", "Jobs that are due and wait for a slot.", value=queue.depth)
        oldest = _seconds(queue.oldest_at, now) if queue.oldest_at else 0.0
        yield GaugeMetricFamily(
            "jobmanager_queue_oldest_seconds", "Longest time that a job has been waiting for a slot.", value=oldest
        )
        yield GaugeMetricFamily("jobmanager_slots_busy", "Jobs that hold a slot, over all processes.", value=queue.busy)
        ages = GaugeMetricFamily(
            "jobmanager_checkpoint_age_seconds",
            "Largest age of the last checkpoint of a running job; without a checkpoint, of its attempt.",
            labels=["type"],
        )
        for name, at in queue.checkpoints.items():
            ages.add_metric([name], _seconds(at, now))
        yield ages


def _seconds(begin: datetime, end: datetime) -> float:
    return max(0.0, (end - begin).total_seconds())
