"""Deliver committed changes to the threads of their jobs: halts, resumes, stops, and force.

This module commits nothing, and looks for no changes (see dispatcher.py).
"""

from __future__ import annotations

from jobmanager.core.states import Action, Status
from jobmanager.core.values import Change
from jobmanager.engine.attempt import Runner
from jobmanager.engine.slots import Slots
from jobmanager.engine.watchdog import Watchdog
from jobmanager.errors import Unwind


class Delivery:
    """Passes changes on to the runners of this process. Any thread may call the methods."""

    def __init__(self, slots: Slots, watchdog: Watchdog) -> None:
        self._slots = slots
        self._watchdog = watchdog

    def deliver(self, change: Change, *, is_forced: bool) -> None:
        """Deliver a change to its job's thread. If there is none here, keep the change for the claims under way."""
        runner = self._slots.recipient(change, is_forced=is_forced)
        if runner is not None:
            self._deliver_to(runner, change, is_forced=is_forced)

    def deliver_early(self, claimant: object) -> None:
        """Deliver the changes that were kept while *claimant* claimed jobs.

        A change that another claimant may still need is not delivered yet.
        """
        for change, is_forced in self._slots.end_claim(claimant):
            runner = self._slots.recipient_after_claim(change, is_forced=is_forced)
            if runner is not None:
                self._deliver_to(runner, change, is_forced=is_forced)

    def _deliver_to(self, runner: Runner, change: Change, *, is_forced: bool) -> None:
        runner.apply_change(change)
        if change.action is Action.STOP and is_forced:
            self._watchdog.schedule_force(runner, change)
        is_resumed = (change.action, change.to_status) == (Action.RESUME, Status.SUBMITTED) and runner.is_parked()
        if is_resumed and runner.is_resumable and self._slots.free_slots() == 0:
            # Give the job up: another process may have a free slot for it.
            runner.interrupt(Unwind(change.job_id))
