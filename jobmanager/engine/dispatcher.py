"""The engine of a process. Its dispatcher thread claims jobs, renews leases, and takes back jobs whose owner died.

Safe with any number of processes on one store: each job has at most one live lease, and every write names its attempt.
This module decides nothing about statuses (see states.py).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from jobmanager.config import Settings
from jobmanager.core.states import Action
from jobmanager.core.values import Applied, Change
from jobmanager.engine import retention
from jobmanager.engine.attempt import Runner
from jobmanager.engine.change_feed import Feed, Interest, ReadNews, Subscription
from jobmanager.engine.claiming import Claimer
from jobmanager.engine.count_checker import CountChecker
from jobmanager.engine.delivery import Delivery
from jobmanager.engine.listening import Listener
from jobmanager.engine.observers import Observers
from jobmanager.engine.slots import Slots
from jobmanager.engine.wakeup import Alarm, StatusVersion
from jobmanager.engine.watchdog import Watchdog
from jobmanager.errors import Interrupt, JobManagerError, LeaseLost, Unwind
from jobmanager.registry import Registry
from jobmanager.store import Store, Watch

#: How often to look for jobs of processes that died.
_EXPIRE_SECONDS = 1.0
#: How often to store the lines that jobs log between checkpoints.
_LOG_SECONDS = 1.0
#: How often to remove old finished jobs, if the settings say so, and old idempotency keys.
_PRUNE_SECONDS = 5.0
#: How often to check the counts of jobs. During a deployment, the counts may become wrong: processes of an earlier
#: version do not update them.
COUNT_SECONDS = 3600.0
#: Delay of the first check after the start: by then, the processes of the earlier version have ended.
FIRST_COUNT_SECONDS = 60.0
#: Pause of the engine after a turn that failed.
_REST_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Engine:
    """Runs the jobs of one process. Its threads: the dispatcher, one per job, the feed's reader, the count checker.

    Other threads may call the methods from `start` to `runners`.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        settings: Settings,
        observers: Observers,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """*clock* returns monotonic seconds. *rng* returns random numbers from 0 to 1, which vary retry delays."""
        self._store = store
        self._registry = registry
        self._settings = settings
        self._observers = observers
        self._clock = clock
        self._is_behind = False  # a turn failed: the next one has to look at everything
        self._is_closing = False  # not an Event: a signal handler could deadlock on its lock
        self._deadline = float("inf")
        self._leases_renewed_at = float("-inf")  # monotonic
        self._wake = Alarm()  # set when there is something to do: a slot came free, a job was submitted
        self._version = StatusVersion()
        self._listener = Listener(self._wake, store.now, clock)
        self._slots = Slots(settings.slots)
        self._watchdog = Watchdog(self._slots, on_abandoned=self.notify, clock=clock)
        self._delivery = Delivery(self._slots, self._watchdog)
        self._claimer = Claimer(
            store,
            registry,
            settings,
            self._slots,
            self._delivery,
            observers,
            wake=self._wake,
            version=self._version,
            is_closing=lambda: self._is_closing,
            clock=clock,
            rng=rng,
        )
        self._count_checker = CountChecker(store)
        self._timers = [
            _Timer(settings.lease_seconds / 3, self._renew_leases, clock),
            _Timer(min(_EXPIRE_SECONDS, settings.lease_seconds / 3), self._expire, clock),
            _Timer(_LOG_SECONDS, self._store_logs, clock),
            _Timer(_PRUNE_SECONDS, self._prune, clock),
            _Timer(COUNT_SECONDS, self._count_checker.start, clock, first_seconds=FIRST_COUNT_SECONDS),
        ]
        #: the dispatcher's thread
        self.thread = threading.Thread(target=self._run, name="jobmanager-engine", daemon=True)
        self._feed = Feed(store, limit=settings.streams, start_reader=self._start_reader)
        self._reader: threading.Thread | None = None  # the feed's latest reader

    # Called by other threads

    def start(self) -> None:
        """Begin to claim jobs; does not block."""
        self._wake.set()
        self.thread.start()

    def begin_shutdown(self, grace_seconds: float) -> None:
        """Stop claiming, and begin to hand over running jobs. Does not block; safe in a signal handler.

        Jobs that do not reach a checkpoint within *grace_seconds* are handed over as they are.
        """
        self._deadline = min(self._deadline, self._clock() + grace_seconds)
        self._is_closing = True
        self._wake.set()

    def close(self, grace_seconds: float) -> None:
        """Hand over running jobs and end all threads. Blocks for about *grace_seconds* at most; may be called twice."""
        self.begin_shutdown(grace_seconds)
        if self.thread.is_alive():
            self.thread.join()
        self._feed.end()
        self._version.grow()
        if self._reader is not None:
            self._reader.join()
        self._count_checker.join(max(0.0, self._deadline - self._clock()))

    def deliver(self, applied: Applied) -> None:
        """Deliver a change to its job's thread, if this process runs the job. Wake all waiting threads.

        Call this after each commit of a change.
        """
        if applied.change is not None:
            self._delivery.deliver(applied.change, is_forced=applied.job.is_forced)
        self.notify()

    def notify(self) -> None:
        """Wake the dispatcher and all waiting threads: there may be work, or a status may have changed."""
        self._wake.set()
        self._version.grow()

    def offer(self) -> None:
        """Wake all waiting threads, and the dispatcher if a slot is free: there may be a job to claim."""
        if self._slots.free_slots() > 0:
            self._wake.set()
        self._version.grow()

    def version(self) -> int:
        """Return a number that grows whenever a status may have changed, in any process."""
        return self._version.value()

    def wait_for_version(self, seen: int, timeout_seconds: float) -> None:
        """Block until `version` differs from *seen*, for *timeout_seconds* at most."""
        self._version.wait(seen, timeout_seconds)

    def subscribe(self, interest: Interest, *, after: int | None, read: ReadNews) -> Subscription:
        """Return a subscription to changes and progress; see Feed.subscribe. It ends when the shutdown begins."""
        return self._feed.subscribe(interest, after=after, read=read)

    def runners(self) -> list[Runner]:
        """Return the runners of this process, including those of halted jobs."""
        return self._slots.runners()

    def _start_reader(self) -> None:
        self._reader = threading.Thread(
            target=self._feed.run, args=(self._version,), name="jobmanager-feed", daemon=True
        )
        self._reader.start()

    # The dispatcher's thread

    def _run(self) -> None:
        watch = self._store.watch()
        try:
            while not self._has_ended():
                try:
                    self._listener.sleep(watch, is_busy=self._slots.has_runners() or self._version.has_waiting())
                    self._turn(watch)
                except JobManagerError as error:
                    _log.warning("The engine failed and will retry: %s", error)
                    self._rest()
                except (Exception, Interrupt):  # an interrupt is meant for the thread of a job, never for this one
                    _log.exception("The engine failed and will retry.")
                    self._rest()
            self._hand_over_the_rest()
        finally:
            self._feed.end()
            watch.close()

    def _rest(self) -> None:
        """Pause after a failure. The next turn looks at everything, even if nothing has moved."""
        time.sleep(_REST_SECONDS)
        self._is_behind = True

    def _turn(self, watch: Watch) -> None:
        if self._is_closing:
            # Do this before the store is called: subscribers and jobs have to end even if it is unavailable.
            self._feed.end()
            self._interrupt_all()
        # Do this before the store is called: the watchdog has to act even if it is unavailable.
        self._watchdog.check()
        is_woken = self._wake.take()
        has_moved = watch.has_moved() or self._is_behind
        self._is_behind = False
        if has_moved:
            self._listener.note_commit()
            self._version.grow()
        if has_moved or is_woken or self._listener.is_due():
            self._listener.note_work()
            self._do_due_work()
        for timer in self._timers:
            timer.run_if_due()

    def _do_due_work(self) -> None:
        """Deliver the changes of other processes, clean stopped jobs, and fill the free slots."""
        if self._settings.slots == 0:  # this process holds no jobs
            return
        types = tuple(self._registry)
        outlook = self._store.look(types)
        self._listener.due_at = outlook.next_due_at
        if outlook.is_signalled:
            self._deliver_from_others()
        if not self._is_closing:
            self._claimer.claim(outlook, types)

    def _deliver_from_others(self) -> None:
        for change in self._store.signals():
            is_forced = change.action is Action.STOP and self._store.get(change.job_id).is_forced
            self._delivery.deliver(change, is_forced=is_forced)

    # Timers

    def _renew_leases(self) -> None:
        if runners := self.runners():
            lost = self._store.heartbeat([runner.job_id for runner in runners])
            for runner in runners:
                if runner.job_id in lost:
                    runner.interrupt(LeaseLost(runner.job_id))
        self._leases_renewed_at = self._clock()

    def _expire(self) -> None:
        if self._clock() - self._leases_renewed_at > self._settings.lease_seconds / 3:
            # The store was unavailable, or this process was frozen. Renew our leases first, or we would expire our own
            # jobs.
            self._renew_leases()
        for applied in self._store.expire():
            self._observers.job_changed(applied)
            if applied.change is not None:
                # If this process was frozen for longer than a lease, the job may have been ours.
                self._interrupt_expired(applied.change)
            self.notify()

    def _interrupt_expired(self, change: Change) -> None:
        runner = self._slots.runner_of(change.job_id)
        if runner is not None and runner.attempt() == change.attempt:
            runner.interrupt(LeaseLost(change.job_id))

    def _store_logs(self) -> None:
        for runner in self.runners():
            runner.store_log()

    def _prune(self) -> None:
        retention.prune_as_set(self._store, self._settings, seconds=_PRUNE_SECONDS / 10)

    # Shutdown: interrupt every thread, renew their leases until they have ended, release the jobs that remain

    def _has_ended(self) -> bool:
        # Obey signals and renew leases until the last job's thread has ended: a person may stop a job meanwhile.
        return self._is_closing and (not self._slots.has_runners() or self._clock() >= self._deadline)

    def _interrupt_all(self) -> None:
        for runner in self.runners():
            runner.interrupt(Unwind(runner.job_id))

    def _hand_over_the_rest(self) -> None:
        for runner in self.runners():
            _log.warning("Job %s did not reach a checkpoint in time. It is handed over as it is.", runner.job_id)
            try:
                runner.hand_over()
            except (JobManagerError, LeaseLost):
                _log.exception("Job %s could not be handed over. Its lease will expire.", runner.job_id)


class _Timer:
    """Calls a function every *seconds*, from inside `run_if_due`, which the dispatcher calls often."""

    def __init__(
        self, seconds: float, call: Callable[[], None], clock: Callable[[], float], *, first_seconds: float = 0.0
    ) -> None:
        """Wait *first_seconds* before the first call."""
        self._seconds = seconds
        self._call = call
        self._clock = clock
        self._due = clock() + first_seconds

    def run_if_due(self) -> None:
        if self._clock() >= self._due:
            self._due = self._clock() + self._seconds
            self._call()
