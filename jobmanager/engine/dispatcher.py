"""Claim jobs, keep their leases alive, and take back those whose owner died.

Safe with any number of processes on one store: each job has at most one live lease, and every write names its attempt.
This module starts the process's threads and reads the clock. It decides nothing about statuses (see states.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from jobmanager.config import Settings
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Applied, Change, JobRecord, Outlook, Wanted
from jobmanager.engine import retention
from jobmanager.engine.attempt import Runner
from jobmanager.engine.change_feed import Feed, Interest, ReadNews, Subscription
from jobmanager.engine.observers import Observers
from jobmanager.engine.wakeup import Alarm
from jobmanager.errors import JobManagerError, LeaseLost, TimedOut, Unwind
from jobmanager.registry import Registry
from jobmanager.store import Store
from jobmanager.store.store import Watch

#: Poll interval for commits of other processes. Notifications wake the engine sooner, but at most this often, and they
#: may be lost.
WATCH_SECONDS = 0.02
#: Poll interval of an idle process that cannot receive notifications. Waking up is most of an idle process's cost.
_DEAF_WATCH_SECONDS = 0.04
#: Poll interval of an idle process that can receive notifications.
_IDLE_WATCH_SECONDS = 0.25
#: A process without jobs and waiting callers counts as idle when nothing has happened for this long.
_LULL_SECONDS = 1.0
#: How long a job may take to obey a stop before force interrupts its code. Code that obeys in time ends in its own way.
_ANSWER_SECONDS = 0.1
#: How long code that force has interrupted may take to end before its thread is abandoned.
FORCE_SECONDS = 2.0
#: How often to look for jobs of processes that died.
_EXPIRE_SECONDS = 1.0
#: How often to store the lines that jobs log between checkpoints.
_LOG_SECONDS = 1.0
#: How often to remove old finished jobs, if the settings say so, and old idempotency keys.
_PRUNE_SECONDS = 5.0
#: How often to check the counts of jobs. Processes of an earlier version, as during a deployment, do not update them.
_COUNT_SECONDS = 3600.0
#: Delay of the first check after the start: by then, the processes of the earlier version have ended.
_FIRST_COUNT_SECONDS = 60.0
#: Pause of the engine after a turn that failed.
_REST_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Engine:
    """The threads of one process: a dispatcher, one thread per job at work, the feed's reader, a checker of counts."""

    def __init__(self, store: Store, registry: Registry, settings: Settings, observers: Observers) -> None:
        self._store = store
        self._registry = registry
        self._settings = settings
        self._observers = observers
        self._lock = threading.Lock()  # guards _runners, _forced, _early; never held in calls of the store or a runner
        self._runners: dict[str, Runner] = {}
        self._forced: dict[Runner, _Force] = {}
        # By claiming thread: changes of jobs not held here, since it began. It may be claiming one of these jobs.
        self._early: dict[object, list[tuple[Change, bool]]] = {}
        self._is_behind = False  # a turn failed: the next one has to look at everything
        self._wake = Alarm()  # set when there is something to do: a slot came free, a job was submitted
        self._is_closing = False  # not an Event: a signal handler could deadlock on its lock
        self._deadline = float("inf")
        self._moved = threading.Condition()  # guards _moves, _waiting; notified whenever a status may have changed
        self._moves = 0
        self._waiting = 0  # threads in wait_for_move
        self._moved_at = float("-inf")  # when something last happened (monotonic)
        self._heard_at = float("-inf")  # when a commit was last announced or found (monotonic)
        self._due_at: datetime | None = None
        self._kept_at = float("-inf")  # when leases were last renewed (monotonic)
        self._timers = [
            _Timer(settings.lease_seconds / 3, self._keep_leases),
            _Timer(min(_EXPIRE_SECONDS, settings.lease_seconds / 3), self._expire),
            _Timer(_LOG_SECONDS, self._keep_logs),
            _Timer(_PRUNE_SECONDS, self._prune),
            _Timer(_COUNT_SECONDS, self._start_checker, first_seconds=_FIRST_COUNT_SECONDS),
        ]
        self._thread = threading.Thread(target=self._run, name="jobmanager-engine", daemon=True)
        self._feed = Feed(store, limit=settings.streams, start_reader=self._start_reader)
        self._reader: threading.Thread | None = None  # the feed's latest reader
        self._checker: threading.Thread | None = None  # the latest checker of counts

    # Called by other threads

    def start(self) -> None:
        """Begin to claim jobs; does not block."""
        self._wake.set()
        self._thread.start()

    def begin_shutdown(self, grace_seconds: float) -> None:
        """Stop claiming and hand over running jobs in *grace_seconds*. Does not block; safe in a signal handler."""
        self._deadline = min(self._deadline, time.monotonic() + grace_seconds)
        self._is_closing = True
        self._wake.set()

    def close(self, grace_seconds: float) -> None:
        """Hand over running jobs and end all threads. Blocks for about *grace_seconds* at most; may be called twice."""
        self.begin_shutdown(grace_seconds)
        if self._thread.is_alive():
            self._thread.join()
        self._feed.end()
        self._tell_waiters()
        if self._reader is not None:
            self._reader.join()
        if self._checker is not None:
            self._checker.join(max(0.0, self._deadline - time.monotonic()))

    def obey(self, applied: Applied) -> None:
        """Deliver a change that this process has committed to the job's thread, if that is in this process."""
        if applied.change is not None:
            self._pass_on(applied.change, is_forced=applied.job.is_forced)
        self.notify()

    def notify(self) -> None:
        """Wake the dispatcher and all waiting threads: there may be work, or a status may have changed."""
        self._wake.set()
        self._tell_waiters()

    def offer(self) -> None:
        """Wake all waiting threads, and the dispatcher if a slot is free: there may be a job to claim."""
        if self._free_slots() > 0:
            self._wake.set()
        self._tell_waiters()

    def moves(self) -> int:
        """Return a number that grows whenever a status may have changed, in any process."""
        return self._moves

    def wait_for_move(self, seen: int, timeout_seconds: float) -> None:
        """Block until `moves` differs from *seen*, for *timeout_seconds* at most."""
        with self._moved:
            self._waiting += 1
            try:
                self._moved.wait_for(lambda: self._moves != seen, timeout_seconds)
            finally:
                self._waiting -= 1

    def subscribe(self, interest: Interest, *, after: int | None, read: ReadNews) -> Subscription:
        """Return a subscription to changes and progress; see Feed.subscribe. It ends when the shutdown begins."""
        return self._feed.subscribe(interest, after=after, read=read)

    def _start_reader(self) -> None:
        read = self._feed.run
        self._reader = threading.Thread(
            target=read, args=(self.moves, self.wait_for_move), name="jobmanager-feed", daemon=True
        )
        self._reader.start()

    def _tell_waiters(self) -> None:
        with self._moved:
            self._moves += 1
            self._moved.notify_all()

    # The dispatcher's thread

    def _run(self) -> None:
        watch = self._store.watch()
        try:
            while not self._has_ended():
                try:
                    self._sleep(watch)
                    self._turn(watch)
                except JobManagerError as error:
                    _log.warning("The engine failed and will retry: %s", error)
                    self._rest()
                except Exception:
                    _log.exception("The engine failed and will retry.")
                    self._rest()
            self._hand_over_the_rest()
        finally:
            self._feed.end()
            watch.close()

    def _sleep(self, watch: Watch) -> None:
        """Wait until there may be something to do."""
        patience = self._patience(watch.fileno())
        deaf_until = self._heard_at + WATCH_SECONDS - time.monotonic()
        if deaf_until > 0:
            self._wake.wait(min(deaf_until, patience), None)
            patience -= deaf_until
        if patience > 0 and self._wake.wait(patience, watch.fileno()):
            self._heard_at = time.monotonic()

    def _patience(self, ear: int | None) -> float:
        """Return the seconds until the next poll. *ear*: the descriptor of notifications; None if there are none."""
        if self._runners or self._waiting or time.monotonic() - self._moved_at < _LULL_SECONDS:
            return WATCH_SECONDS
        if ear is None:
            return _DEAF_WATCH_SECONDS
        if self._due_at is None:
            return _IDLE_WATCH_SECONDS
        until_due = (self._due_at - self._store.now()).total_seconds()
        return max(WATCH_SECONDS, min(until_due, _IDLE_WATCH_SECONDS))

    def _rest(self) -> None:
        """Pause after a failure. The next turn looks at everything, even if nothing has moved."""
        time.sleep(_REST_SECONDS)
        self._is_behind = True

    def _turn(self, watch: Watch) -> None:
        if self._is_closing:
            # First, as it needs no store: threads that wait for a store that is away have to end too.
            self._feed.end()
            self._interrupt_all()
        if self._runners:
            # Before the store is called, for the same reason.
            self._look_after_runners()
        is_woken = self._wake.take()
        has_moved = watch.has_moved() or self._is_behind
        self._is_behind = False
        if has_moved:
            self._heard_at = time.monotonic()
            self._tell_waiters()
        if has_moved or is_woken or self._is_due():
            self._moved_at = time.monotonic()
            self._look()
        for timer in self._timers:
            timer.run_if_due()

    def _has_ended(self) -> bool:
        # Obey signals and renew leases until the last job's thread has ended: a person may stop a job meanwhile.
        return self._is_closing and (not self._held() or time.monotonic() >= self._deadline)

    def _read_signals(self) -> None:
        for change in self._store.signals():
            is_forced = change.action is Action.STOP and self._store.get(change.job_id).is_forced
            self._pass_on(change, is_forced=is_forced)

    def _pass_on(self, change: Change, *, is_forced: bool) -> None:
        with self._lock:
            runner = self._runner_of(change)
            if runner is None and self._early:
                for early in self._early.values():
                    early.append((change, is_forced))
                return
            runner = runner or self._runners.get(change.job_id)
        if runner is not None:
            self._tell(runner, change, is_forced=is_forced)

    def _runner_of(self, change: Change) -> Runner | None:
        """Return the runner of the change's attempt or of a later one; None if there is none. Needs the lock held."""
        runner = self._runners.get(change.job_id)
        return runner if runner is not None and runner.record.attempt >= change.attempt else None

    def _pass_on_early(self, claimant: object) -> None:
        """Deliver the changes that arrived while *claimant* claimed, unless another claimant may still need them."""
        with self._lock:
            early = self._early.pop(claimant, [])
        for change, is_forced in early:
            with self._lock:
                is_early = any((change, is_forced) in other for other in self._early.values())
                runner = self._runner_of(change) or (None if is_early else self._runners.get(change.job_id))
            if runner is not None:
                self._tell(runner, change, is_forced=is_forced)

    def _tell(self, runner: Runner, change: Change, *, is_forced: bool) -> None:
        runner.obey(change)
        if change.action is Action.STOP and is_forced:
            self._have_forced(runner, change)
        is_resumed = (change.action, change.to_status) == (Action.RESUME, Status.SUBMITTED) and runner.is_parked
        if is_resumed and runner.is_resumable() and self._free_slots() == 0:
            # Give the job up: another process may have a free slot for it.
            runner.interrupt(Unwind(change.job_id))

    def _have_forced(self, runner: Runner, change: Change) -> None:
        """Schedule force against the runner, for when it has had time to obey the stop."""
        now = time.monotonic()
        asked_at = runner.signals.stop_asked_at
        strikes_at = max(now, (now if asked_at is None else asked_at) + _ANSWER_SECONDS)
        with self._lock:
            # Otherwise the attempt has ended meanwhile, or began after the request.
            if self._runners.get(change.job_id) is runner and runner.record.attempt <= change.attempt:
                before = self._forced.get(runner)
                if before is not None and before.in_clean is runner.is_cleaning:
                    before.has_struck = False  # strike again; the time to abandon the thread stays
                else:
                    self._forced[runner] = _Force(strikes_at=strikes_at, in_clean=runner.is_cleaning)

    def _is_due(self) -> bool:
        return self._due_at is not None and self._due_at <= self._store.now()

    def _look(self) -> None:
        """Deliver the changes of other processes, clean stopped jobs, and fill the free slots."""
        if self._settings.slots == 0:  # this process holds no jobs
            return
        types = tuple(self._registry)
        outlook = self._store.look(types)
        self._due_at = outlook.next_due_at
        if outlook.is_signalled:
            self._read_signals()
        if self._is_closing:
            return
        with self._lock:
            self._early[self] = []
        try:
            self._claim(outlook, types)
        finally:
            self._pass_on_early(self)

    def _claim(self, outlook: Outlook, types: tuple[str, ...]) -> None:
        if outlook.has_to_clean:
            # Cleaning takes no slot: a job that is ending should not keep another one from running.
            self._launch_all(self._store.claim_to_clean(self._free_cleaners(), types=types))
        if outlook.has_due and self._store.queue_due():
            # Even if no slot is free: a thread whose job ends claims only from the queue. Look again for later jobs.
            self._wake.set()
        free = self._free_slots()
        if outlook.has_waiting and free > 0:
            self._launch_all(self._store.claim(free, types=types, max_running=self._registry.max_running()))

    def _launch_all(self, claimed: list[JobRecord]) -> None:
        for record in claimed:
            self._observers.attempt_began(record)
            self._launch(record)
        if claimed:
            self._wake.set()  # look again: a bounded type is claimed one job at a time, and slots may have come free

    def _launch(self, record: JobRecord) -> None:
        """Wake the job's parked thread, or start a new one. Release the job if the system has no more threads."""
        runner = self._runner_for(record)
        if runner is None:
            return
        with self._lock:
            self._runners[record.id] = runner
        try:
            runner.start()
        except RuntimeError:
            _log.exception("No thread could be started for job %s. The job is released.", record.id)
            self._remove(runner)
            runner.hand_over()

    def _runner_for(self, record: JobRecord) -> Runner | None:
        """Return a new runner for a claimed job, or wake its parked thread and return None."""
        with self._lock:
            predecessor = self._runners.get(record.id)
        if predecessor is not None and predecessor.wake(record):
            return None
        return Runner(
            record,
            self._registry.get(record.type),
            store=self._store,
            settings=self._settings,
            observers=self._observers,
            on_change=self._changed,
            wanted=self._wanted_by,
            on_end=self._ended,
            predecessor=predecessor,
        )

    # Called by the threads of runners

    def _changed(self, _runner: Runner) -> None:
        self.notify()

    def _wanted_by(self, runner: Runner) -> Wanted | None:
        """Return which jobs the runner's thread may claim into its slot when its job ends; None if it may not claim.

        From then on, changes of jobs not held here are collected for the thread.
        """
        if self._is_closing or runner.is_cleaner or self._free_slots() < 0:
            return None
        with self._lock:
            self._early.setdefault(runner, [])
        return Wanted(types=tuple(self._registry), max_running=self._registry.max_running())

    def _ended(self, runner: Runner, last: Applied | None) -> Runner | None:
        """Remove a runner whose attempt has ended. Return the runner that continues in its thread and slot, if any."""
        claimed = last.claimed if last is not None else None
        following = self._runner_for(claimed) if claimed is not None else None
        if following is not None and self._is_closing:
            # The shutdown began during the claim.
            following.give_back()
            following = None
        with self._lock:
            self._take_off(runner)
            if following is not None:
                self._runners[following.record.id] = following
        self._pass_on_early(runner)
        if following is None or last is None or last.job.finished_at is None:
            self._wake.set()  # there is a free slot, or a job that waits for its retry
        self._tell_waiters()
        return following

    def _remove(self, runner: Runner) -> None:
        """Remove a runner whose thread cannot do so itself."""
        with self._lock:
            self._take_off(runner)
        self.notify()

    def _take_off(self, runner: Runner) -> None:
        if self._runners.get(runner.record.id) is runner:
            del self._runners[runner.record.id]
        self._forced.pop(runner, None)

    # Timers

    def _keep_leases(self) -> None:
        if held := self._held():
            lost = self._store.heartbeat([runner.record.id for runner in held])
            for runner in held:
                if runner.record.id in lost:
                    runner.interrupt(LeaseLost(runner.record.id))
        self._kept_at = time.monotonic()

    def _expire(self) -> None:
        if time.monotonic() - self._kept_at > self._settings.lease_seconds / 3:
            # The store was away, or this process was frozen. Renew our leases first, or we would expire our own jobs.
            self._keep_leases()
        for applied in self._store.expire():
            self._observers.job_changed(applied)
            if applied.change is not None:
                # It may have been ours, if this process was frozen for longer than a lease.
                self._lose(applied.change)
            self.notify()

    def _lose(self, change: Change) -> None:
        with self._lock:
            runner = self._runners.get(change.job_id)
        if runner is not None and runner.record.attempt == change.attempt:
            runner.interrupt(LeaseLost(change.job_id))

    def _keep_logs(self) -> None:
        for runner in self._held():
            runner.keep_log()

    def _prune(self) -> None:
        retention.prune_as_set(self._store, self._settings, seconds=_PRUNE_SECONDS / 10)

    def _start_checker(self) -> None:
        # In a thread: for ten million jobs it takes seconds, and the dispatcher has to deliver halts and renew leases.
        if self._checker is None or not self._checker.is_alive():
            self._checker = threading.Thread(target=self._correct_count, name="jobmanager-counts", daemon=True)
            self._checker.start()

    def _correct_count(self) -> None:
        try:
            missed = self._store.correct_count()
        except JobManagerError as error:
            _log.warning("The counts of jobs could not be checked: %s", error)
            return
        if missed:
            told = ", ".join(f"{number:+} {name} {status}" for (name, status), number in sorted(missed.items()))
            _log.warning("The counts of jobs were wrong and are corrected now: %s.", told)

    def _look_after_runners(self) -> None:
        now = time.monotonic()
        for runner in self._held():
            limit = runner.record.timeout_seconds
            if limit is not None and runner.run_seconds() > limit:
                runner.interrupt(TimedOut(f"The attempt took longer than {limit:g} seconds."))
            with self._lock:
                force = self._forced.get(runner)
            if force is not None and force.strikes_at <= now:
                self._force(runner, force, now)

    def _force(self, runner: Runner, force: _Force, now: float) -> None:
        """Interrupt a job that does not obey a stop. Abandon its thread if it has not ended FORCE_SECONDS later."""
        if not force.has_struck:
            force.has_struck = True
            runner.force()
        if force.strikes_at + FORCE_SECONDS < now and runner.is_cleaning is force.in_clean:
            self._abandon(runner, in_clean=force.in_clean)

    def _abandon(self, runner: Runner, *, in_clean: bool) -> None:
        try:
            if not runner.abandon(in_clean=in_clean):
                return
            _log.error("Job %s did not end after a forced stop. Its thread is abandoned.", runner.record.id)
        except (JobManagerError, LeaseLost) as error:
            # It has just ended, or the store does not answer and the lease will expire.
            _log.warning("Job %s could not be released: %s", runner.record.id, error)
        self._remove(runner)

    # Shutdown: interrupt every thread, renew their leases until they have ended, release the jobs that remain

    def _interrupt_all(self) -> None:
        for runner in self._held():
            runner.interrupt(Unwind(runner.record.id))

    def _hand_over_the_rest(self) -> None:
        for runner in self._held():
            _log.warning("Job %s did not reach a checkpoint in time. It is handed over as it is.", runner.record.id)
            try:
                runner.hand_over()
            except (JobManagerError, LeaseLost):
                _log.exception("Job %s could not be handed over. Its lease will expire.", runner.record.id)

    # The runners of this process

    def _held(self) -> list[Runner]:
        with self._lock:
            return list(self._runners.values())

    def _free_slots(self) -> int:
        held = self._held()
        return self._settings.slots - sum(runner.holds_slot and not runner.is_cleaner for runner in held)

    def _free_cleaners(self) -> int:
        return self._settings.slots - sum(runner.is_cleaner for runner in self._held())


@dataclass(slots=True, kw_only=True)
class _Force:
    """Force that was requested against a job's thread."""

    #: when the job's code is interrupted (monotonic)
    strikes_at: float
    #: the thread was in `clean` at the request; the thread is abandoned only if that has not changed
    in_clean: bool
    has_struck: bool = False


class _Timer:
    """Calls a function every *seconds*, as long as `run_if_due` is called."""

    def __init__(self, seconds: float, call: Callable[[], None], *, first_seconds: float = 0.0) -> None:
        """Wait *first_seconds* before the first call."""
        self._seconds = seconds
        self._call = call
        self._due = time.monotonic() + first_seconds

    def run_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._seconds
            self._call()
