"""End the attempts that do not end themselves: those over their time limit, and those that do not obey a forced stop.

Needs no store, except to release the job of a thread that is abandoned.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from jobmanager.core.values import Change
from jobmanager.engine.attempt import Runner
from jobmanager.engine.slots import Slots
from jobmanager.errors import JobManagerError, LeaseLost

#: How long a job may take to obey a stop before force interrupts its code. Code that obeys in time ends in its own way.
ANSWER_SECONDS = 0.1
#: How long code that force has interrupted may take to end before its thread is abandoned.
FORCE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Watchdog:
    """Interrupts runners when their time is up. Any thread may call `schedule_force`. The dispatcher calls `check`."""

    def __init__(self, slots: Slots, *, on_abandoned: Callable[[], None], clock: Callable[[], float]) -> None:
        """*on_abandoned* is called when a thread was abandoned and a slot came free."""
        self._slots = slots
        self._on_abandoned = on_abandoned
        self._clock = clock
        self._lock = threading.Lock()  # guards _scheduled; the locks of slots and runners may be taken inside
        self._scheduled: dict[Runner, _Force] = {}

    def schedule_force(self, runner: Runner, change: Change) -> None:
        """Schedule force for when the runner has had ANSWER_SECONDS to obey the stop. *change* is the forced stop."""
        now = self._clock()
        asked_at = runner.signals.stop_asked_at
        strikes_at = max(now, (now if asked_at is None else asked_at) + ANSWER_SECONDS)
        with self._lock:
            # Ignore force if the attempt has ended meanwhile, or began after the request.
            if self._is_held(runner) and runner.attempt() <= change.attempt:
                in_clean = runner.is_cleaning()
                before = self._scheduled.get(runner)
                if before is not None and before.in_clean is in_clean:
                    before.has_struck = False  # strike again; the time to abandon the thread stays
                else:
                    self._scheduled[runner] = _Force(strikes_at=strikes_at, in_clean=in_clean)

    def check(self) -> None:
        """Interrupt the attempts whose time is up."""
        for runner in self._slots.runners():
            runner.interrupt_if_overtime()
        now = self._clock()
        for runner, force in self._due(now):
            self._apply_force(runner, force, now)

    def _due(self, now: float) -> list[tuple[Runner, _Force]]:
        with self._lock:
            for runner in [runner for runner in self._scheduled if not self._is_held(runner)]:
                del self._scheduled[runner]
            return [(runner, force) for runner, force in self._scheduled.items() if force.strikes_at <= now]

    def _is_held(self, runner: Runner) -> bool:
        return self._slots.runner_of(runner.job_id) is runner

    def _apply_force(self, runner: Runner, force: _Force, now: float) -> None:
        """Interrupt a job that does not obey a stop. Abandon its thread if it has not ended FORCE_SECONDS later."""
        if not force.has_struck:
            force.has_struck = True
            runner.force()
        if force.strikes_at + FORCE_SECONDS < now and runner.is_cleaning() is force.in_clean:
            self._abandon(runner, in_clean=force.in_clean)

    def _abandon(self, runner: Runner, *, in_clean: bool) -> None:
        try:
            if not runner.abandon(in_clean=in_clean):
                return
            _log.error("Job %s did not end after a forced stop. Its thread is abandoned.", runner.job_id)
        except (JobManagerError, LeaseLost) as error:
            # It has just ended, or the store does not answer and the lease will expire.
            _log.warning("Job %s could not be released: %s", runner.job_id, error)
        self._slots.remove(runner)
        self._on_abandoned()


@dataclass(slots=True, kw_only=True)
class _Force:
    """Force that was requested against a job's thread."""

    #: when the job's code is interrupted (monotonic)
    strikes_at: float
    #: True: the thread was in `clean` at the request; if it was not but is by now, it is not abandoned
    in_clean: bool
    has_struck: bool = False
