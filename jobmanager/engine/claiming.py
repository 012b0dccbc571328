"""Claim jobs into the free slots of this process, and start, wake or continue the threads that run them.

This module does not look for work (see dispatcher.py), and decides nothing about statuses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobmanager.config import Settings
from jobmanager.core.values import Applied, JobRecord, Outlook, Wanted
from jobmanager.engine.attempt import Runner
from jobmanager.engine.delivery import Delivery
from jobmanager.engine.observers import Observers
from jobmanager.engine.slots import Slots
from jobmanager.engine.wakeup import Alarm, StatusVersion
from jobmanager.errors import JobManagerError, LeaseLost
from jobmanager.registry import Registry
from jobmanager.store import Store

_log = logging.getLogger(__name__)


class Claimer:
    """Fills the slots of a process: in the dispatcher's thread, and in each job's thread when its job ends."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        settings: Settings,
        slots: Slots,
        delivery: Delivery,
        observers: Observers,
        *,
        wake: Alarm,
        version: StatusVersion,
        is_closing: Callable[[], bool],
        clock: Callable[[], float],
        rng: Callable[[], float],
    ) -> None:
        """*wake* wakes the dispatcher. It is set when a slot came free, or when there may be more to claim."""
        self._store = store
        self._registry = registry
        self._settings = settings
        self._slots = slots
        self._delivery = delivery
        self._observers = observers
        self._wake = wake
        self._version = version
        self._is_closing = is_closing
        self._clock = clock
        self._rng = rng

    # In the dispatcher's thread

    def claim(self, outlook: Outlook, types: tuple[str, ...]) -> None:
        """Clean stopped jobs, put due jobs into the queue, and fill the free slots from it."""
        self._slots.begin_claim(self)
        try:
            if outlook.has_to_clean:
                # Cleaning takes no slot: a job that is ending should not keep another one from running.
                self._launch_all(self._store.claim_to_clean(self._slots.free_cleaners(), types=types))
            if outlook.has_due and self._store.queue_due():
                # Queue due jobs even if no slot is free: a thread whose job ends claims only from the queue.
                # Then look again: more jobs may be due than one call queues.
                self._wake.set()
            free = self._slots.free_slots()
            if outlook.has_waiting and free > 0:
                self._launch_all(self._store.claim(free, types=types, max_running=self._registry.max_running()))
        finally:
            self._delivery.deliver_early(self)

    def _launch_all(self, claimed: list[JobRecord]) -> None:
        for record in claimed:
            self._observers.attempt_began(record)
        for record in claimed:
            self._launch(record)
        if claimed:
            self._wake.set()  # look again: types with max_running are claimed one job at a time, and slots may be free

    def _launch(self, record: JobRecord) -> None:
        """Wake the job's parked thread, or start a new one. Release the job if the system has no more threads."""
        runner = self._wake_or_make_runner(record)
        if runner is None:
            return
        self._slots.add(runner)
        try:
            runner.start()
        except RuntimeError:
            _log.exception("No thread could be started for job %s. The job is released.", record.id)
            self._slots.remove(runner)
            self._notify()
            try:
                runner.hand_over()
            except (JobManagerError, LeaseLost) as error:
                # Do not raise: LeaseLost would end the dispatcher. The job's lease will expire.
                _log.warning("Job %s could not be released: %s", record.id, error)

    # Called in the threads of jobs, too

    def _wake_or_make_runner(self, record: JobRecord) -> Runner | None:
        """Return a new runner for a claimed job, or wake its parked thread and return None."""
        predecessor = self._slots.runner_of(record.id)
        if predecessor is not None and predecessor.wake(record):
            return None
        return Runner(
            record,
            self._registry.get(record.type),
            store=self._store,
            settings=self._settings,
            observers=self._observers,
            on_halted=self._notify,
            begin_claim=self._begin_claim,
            on_end=self._replace_ended,
            predecessor=predecessor,
            clock=self._clock,
            rng=self._rng,
        )

    def _begin_claim(self, runner: Runner) -> Wanted | None:
        """Return which jobs the runner's thread may claim into its slot when its job ends; None if it may not claim.

        If it may claim, changes of jobs without a runner in this process are kept for the thread from now on.
        """
        if self._is_closing() or runner.is_cleaner or self._slots.free_slots() < 0:
            return None
        self._slots.begin_claim(runner)
        return Wanted(types=tuple(self._registry), max_running=self._registry.max_running())

    def _replace_ended(self, runner: Runner, last: Applied | None) -> Runner | None:
        """Remove a runner whose attempt has ended. Return the runner that continues in its thread and slot, if any."""
        claimed = last.claimed if last is not None else None
        following = self._wake_or_make_runner(claimed) if claimed is not None else None
        if following is not None and self._is_closing():
            # The shutdown began during the claim.
            following.give_back()
            following = None
        self._slots.remove(runner, following=following)
        self._delivery.deliver_early(runner)
        if following is None or last is None or last.job.finished_at is None:
            self._wake.set()  # there is a free slot, or a job that waits for its retry
        self._version.grow()
        return following

    def _notify(self) -> None:
        self._wake.set()
        self._version.grow()
