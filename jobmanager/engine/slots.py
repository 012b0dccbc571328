"""The runners of this process: which job has one, how many slots are free, and changes that came during a claim.

This module starts, wakes and interrupts no runner, and does not call the store.
"""

from __future__ import annotations

import threading

from jobmanager.core.values import Change
from jobmanager.engine.attempt import Runner


class Slots:
    """The runners of this process, by job. Any thread may call the methods."""

    def __init__(self, number: int) -> None:
        self._number = number
        # Guards the two fields below. Never held while calling the store; a runner's locks may be taken inside.
        self._lock = threading.Lock()
        self._runners: dict[str, Runner] = {}
        # By claiming thread: the changes, since its claim began, of jobs without a runner here, and whether force was
        # requested. The thread may be claiming one of these jobs.
        self._changes_during_claim: dict[object, list[tuple[Change, bool]]] = {}

    def runners(self) -> list[Runner]:
        """Return the runners, including those of halted jobs."""
        with self._lock:
            return list(self._runners.values())

    def runner_of(self, job_id: str) -> Runner | None:
        """Return the job's runner, if it has one here."""
        with self._lock:
            return self._runners.get(job_id)

    def has_runners(self) -> bool:
        """Return True if there is a runner."""
        with self._lock:
            return bool(self._runners)

    def free_slots(self) -> int:
        """Return how many jobs may be claimed. May be below 0.

        A halted job holds no slot. If it is stopped, its parked thread takes a slot to clean it, even if none is free.
        """
        return self._number - sum(runner.holds_slot() for runner in self.runners())

    def free_cleaners(self) -> int:
        """Return how many stopped jobs may be claimed to be cleaned. They take no slot."""
        return self._number - sum(runner.is_cleaner for runner in self.runners())

    def add(self, runner: Runner) -> None:
        """Add a runner, in place of an earlier one of its job."""
        with self._lock:
            self._runners[runner.job_id] = runner

    def remove(self, runner: Runner, *, following: Runner | None = None) -> None:
        """Remove a runner, unless its job has another one by now. Add *following*, which its thread runs next."""
        with self._lock:
            if self._runners.get(runner.job_id) is runner:
                del self._runners[runner.job_id]
            if following is not None:
                self._runners[following.job_id] = following

    # Changes that arrive while a thread claims

    def begin_claim(self, claimant: object) -> None:
        """Keep the changes of jobs without a runner here for *claimant*, until it calls `end_claim`."""
        with self._lock:
            self._changes_during_claim.setdefault(claimant, [])

    def end_claim(self, claimant: object) -> list[tuple[Change, bool]]:
        """Stop keeping changes for *claimant*. Return those kept so far, each with True if force was requested.

        `recipient_after_claim` returns the runner that each is for.
        """
        with self._lock:
            return self._changes_during_claim.pop(claimant, [])

    def recipient(self, change: Change, *, is_forced: bool) -> Runner | None:
        """Return the runner that a change is for. If there is none, keep the change for the claiming threads."""
        with self._lock:
            runner = self._runner_from(change)
            if runner is None and self._changes_during_claim:
                for changes in self._changes_during_claim.values():
                    changes.append((change, is_forced))
                return None
            # If there is none, return the runner of an earlier attempt, if any. It learns from the change that its
            # lease is lost.
            return runner or self._runners.get(change.job_id)

    def recipient_after_claim(self, change: Change, *, is_forced: bool) -> Runner | None:
        """Return the runner that a change kept during a claim is for; None if another claimant may still need it."""
        with self._lock:
            is_kept = any((change, is_forced) in changes for changes in self._changes_during_claim.values())
            return self._runner_from(change) or (None if is_kept else self._runners.get(change.job_id))

    def _runner_from(self, change: Change) -> Runner | None:
        """Return the runner of the change's attempt or of a later one, if there is one. Needs the lock."""
        runner = self._runners.get(change.job_id)
        return runner if runner is not None and runner.attempt() >= change.attempt else None
