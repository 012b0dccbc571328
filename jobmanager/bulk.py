"""Halt, resume or stop all jobs of a selection, in batches with a commit each.

Does not wait for the jobs. Decides nothing about statuses (see core/states.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from jobmanager.core.states import Action
from jobmanager.core.values import Applied, BulkResult, Position, Selection
from jobmanager.engine.observers import Observers
from jobmanager.errors import NotAllowed, StoreUnavailable
from jobmanager.registry import Registry
from jobmanager.runtime import Runtime

#: Jobs that a bulk request changes in one commit. Few, so that other writers hardly wait.
_COMMIT_SIZE = 100
#: Jobs that a bulk request reads in one query.
_PAGE_SIZE = 500


class BulkControl:
    """Carries out bulk requests. A shutdown waits for the current query or commit, not for the whole request."""

    def __init__(self, runtime: Runtime, types: Registry, observers: Observers) -> None:
        self._runtime = runtime
        self._types = types
        self._observers = observers

    def request(
        self,
        selection: Selection,
        action: Action,
        *,
        actor: str,
        reason: str | None,
        spread_seconds: float = 0,
        is_forced: bool = False,
    ) -> BulkResult:
        """Apply an action to the jobs that match, and return which changed, and why others did not.

        *spread_seconds* spreads a resume: the oldest job may run at once, the newest after this time, the others in
        between. Raises StoreUnavailable if the store does not answer before the first commit. If it stops answering
        later, the remaining jobs are listed as unchanged.
        """
        ids = list(self._ids_of(selection))
        run_ats = _spread(len(ids), self._now(), spread_seconds)
        how = {"statuses": selection.statuses, "actor": actor, "reason": reason, "is_forced": is_forced}
        changed: list[str] = []
        unchanged: dict[str, str] = {}
        reasons: dict[str, str] = {}  # one string per reason: a hundred thousand jobs may share it
        for begin in range(0, len(ids), _COMMIT_SIZE):
            some = dict(zip(ids[begin : begin + _COMMIT_SIZE], run_ats, strict=False))
            try:
                outcomes = self._apply_to_each(some, action, **how)
            except StoreUnavailable:
                if begin == 0:
                    raise
                # Do not raise: an error would mean that nothing was changed, but the earlier batches are committed.
                unchanged |= dict.fromkeys(ids[begin:], "The store did not answer. Send the request again.")
                break
            for job_id, outcome in outcomes.items():
                why = _why_unchanged(outcome)
                if why is None:
                    changed.append(job_id)
                else:
                    unchanged[job_id] = reasons.setdefault(why, why)
        return BulkResult(changed=changed, unchanged=unchanged)

    def _ids_of(self, selection: Selection) -> Iterator[str]:
        before: Position | None = None
        while True:
            with self._runtime.call() as (store, _):
                ids, before = store.find_ids(selection, tuple(self._types), before=before, limit=_PAGE_SIZE)
            yield from ids
            if before is None:
                return

    def _now(self) -> datetime:
        with self._runtime.call() as (store, _):
            return store.now()

    def _apply_to_each(
        self, run_ats: dict[str, datetime | None], action: Action, **how: Any
    ) -> dict[str, Applied | NotAllowed | None]:
        """Apply the action to some of the jobs in one commit, and deliver the changes. See Store.apply_to_each."""
        with self._runtime.call() as (store, engine):
            outcomes = store.apply_to_each(run_ats, action, **how)
            for outcome in outcomes.values():
                if isinstance(outcome, Applied):
                    self._observers.job_changed(outcome)
                    engine.deliver(outcome)
            return outcomes


def _spread(number: int, now: datetime, seconds: float) -> Iterator[datetime | None]:
    """Yield the start times of *number* jobs, newest job first.

    The times are spread evenly: the oldest job may start at *now*, the newest *seconds* later. Yields None for each
    job if *seconds* is 0.
    """
    step = timedelta(seconds=seconds) / max(1, number - 1)
    return (now + step * place if seconds > 0 else None for place in reversed(range(number)))


def _why_unchanged(outcome: Applied | NotAllowed | None) -> str | None:
    """Return why a bulk request did not change a job; None if it did."""
    if isinstance(outcome, NotAllowed):
        return str(outcome)
    if outcome is None:
        return "No longer matches the filter."
    return f"It is already {outcome.job.status}." if outcome.change is None else None
