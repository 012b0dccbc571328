"""Validate submissions, make new jobs of them, and add these to the store.

Runs nothing: the caller tells the engine of new jobs. Validation does not need the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import count

import uuid_utils

from jobmanager.config import Settings
from jobmanager.core.json_values import check_json
from jobmanager.core.repeatable import Repeatable, repeatable
from jobmanager.core.values import JobRecord, NewBatch, NewJob, Submission
from jobmanager.engine.observers import Observers
from jobmanager.errors import InvalidRequest
from jobmanager.job import Job
from jobmanager.observability import tracing
from jobmanager.registry import Registry, check_args, parse_args
from jobmanager.store import Store

#: Largest integer that every database can store.
_LARGEST_INTEGER = 2**31 - 1

#: Most labels of a job.
MOST_LABELS = 32
_LONGEST_LABEL = 255
_LONGEST_KEY = 255


class Submissions:
    """Accepts submissions, by the job types and settings of one manager."""

    def __init__(self, types: Registry, settings: Settings, observers: Observers) -> None:
        self._types = types
        self._settings = settings
        self._observers = observers

    def validate(self, asked: Submission) -> NewJob:
        """Return a submission as a new job. Raises UnknownType or InvalidRequest."""
        self._check(asked, under=())
        return self._make(asked, traceparent=tracing.traceparent())

    def validate_all(self, submissions: Iterable[Submission]) -> NewBatch | list[NewJob]:
        """Return submissions as a batch, or as a list if any has an idempotency key. Raises as `validate` does.

        The batch is lazy: it keeps no jobs. Each iteration reads the submissions, and makes new jobs of them.
        """
        again = repeatable(submissions)
        of_types: Counter[str] = Counter()
        numbers = count()

        def check(asked: Submission) -> bool:
            """Check a submission, count its type, and return True if it has an idempotency key."""
            self._check(asked, under=(next(numbers),))
            of_types[asked.type] += 1
            return asked.idempotency_key is not None

        # map, not a for loop: a loop variable would keep a submission, which may be large, while the next one is read.
        has_keys = sum(map(check, again)) > 0
        # Read here: the store may make the jobs in another thread, which has another span.
        make = partial(self._make, traceparent=tracing.traceparent())
        if has_keys:
            return [make(asked) for asked in again]
        return NewBatch(jobs=Repeatable(lambda: map(make, again)), of_types=of_types)

    def add(self, store: Store, new: NewJob, *, actor: str) -> JobRecord:
        """Store a new job and return it, or the job that has its idempotency key. See Store.add."""
        (job,) = self._add_each(store, [new], actor)
        return job

    def add_all(self, store: Store, new: NewBatch | list[NewJob], *, actor: str) -> list[str]:
        """Store many new jobs, all or none, and return their ids. See Store.add and Store.add_all."""
        if isinstance(new, list):
            return [job.id for job in self._add_each(store, new, actor)]
        if not new:
            return []
        ids = store.add_all(new, actor=actor)
        self._observers.jobs_submitted(new.of_types)
        return ids

    def _add_each(self, store: Store, new: list[NewJob], actor: str) -> list[JobRecord]:
        added = store.add(new, actor=actor)
        # If the ids differ, the job is an older one, which already had the idempotency key.
        fresh = Counter(job.type for asked, job in zip(new, added, strict=True) if job.id == asked.id)
        self._observers.jobs_submitted(fresh)
        return added

    def _check(self, asked: Submission, *, under: tuple[int, ...]) -> None:
        """Raise UnknownType, or InvalidRequest with a field below *under*, if a submission cannot run."""
        try:
            job_type = self._types.get(asked.type)
            check_args(asked.args)
            parse_args(job_type, asked.args, self._settings)
            _check_limits(*_limits(asked, job_type))
            _check_fields(asked)
        except InvalidRequest as error:
            raise error.moved(under) from None

    def _make(self, asked: Submission, *, traceparent: str | None) -> NewJob:
        """Return a submission as a new job, with its type's defaults for settings that it leaves out."""
        max_attempts, timeout_seconds = _limits(asked, self._types.get(asked.type))
        return NewJob(
            id=str(uuid_utils.uuid7()),
            type=asked.type,
            args=asked.args,
            priority=asked.priority,
            labels=asked.labels,
            run_at=asked.run_at,
            max_attempts=max_attempts,
            timeout_seconds=timeout_seconds,
            idempotency_key=asked.idempotency_key,
            idempotency_scope=asked.idempotency_scope,
            traceparent=traceparent,
        )


def _limits(asked: Submission, job_type: type[Job]) -> tuple[int, float | None]:
    """Return how often a job is tried, and for how long: as submitted, or else the type's defaults."""
    max_attempts = job_type.max_attempts if asked.max_attempts is None else asked.max_attempts
    timeout_seconds = job_type.timeout_seconds if asked.timeout_seconds is None else asked.timeout_seconds
    return max_attempts, timeout_seconds


def _check_limits(max_attempts: int, timeout_seconds: float | None) -> None:
    """Raise InvalidRequest if a job with these limits cannot be stored, or could never run."""
    if not 1 <= max_attempts <= _LARGEST_INTEGER:
        raise InvalidRequest("max_attempts must be between 1 and 2147483647.", field="max_attempts")
    if timeout_seconds is not None and not 0 < timeout_seconds < float("inf"):
        raise InvalidRequest("timeout_seconds must be greater than 0 and finite.", field="timeout_seconds")


def _check_fields(asked: Submission) -> None:
    """Raise InvalidRequest if a field other than the type, arguments and limits cannot be stored."""
    try:
        check_json(asked.labels, "labels")
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{error}.", field="labels") from None
    if not -_LARGEST_INTEGER <= asked.priority <= _LARGEST_INTEGER:
        raise InvalidRequest("priority must be between -2147483647 and 2147483647.", field="priority")
    _check_labels(asked.labels)
    key = asked.idempotency_key
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isprintable()):
        text = f"An idempotency key has 1 to {_LONGEST_KEY} printable characters."
        raise InvalidRequest(text, field="idempotency_key")
    if asked.run_at is not None and asked.run_at.tzinfo is None:
        raise InvalidRequest("run_at must include a time zone.", field="run_at")


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > MOST_LABELS:
        raise InvalidRequest(f"A job can have at most {MOST_LABELS} labels.", field="labels")
    for name, value in labels.items():
        if not isinstance(value, str) or max(len(name), len(value)) > _LONGEST_LABEL:
            raise InvalidRequest(
                f"A label's name and value must be strings of at most {_LONGEST_LABEL} characters.", field="labels"
            )
        if not name or ":" in name:
            raise InvalidRequest("A label's name must not be empty or contain a colon.", field="labels")
