"""The life of a job, as data: statuses, actions, and the one table that joins them.

Pure: no I/O, no clock, no threads. Every change of a status goes through `advance`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from jobmanager.errors import NotAllowed


class Status(StrEnum):
    """Where a job stands; stored and shown in lower case."""

    SUBMITTED = "submitted"  # waits for its time and a slot
    RUNNING = "running"
    HALTING = "halting"  # halt requested, not yet in effect
    HALTED = "halted"
    STOPPING = "stopping"  # stop requested, or `clean` is running
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"


class Action(StrEnum):
    """The input of the state machine: everything that can happen to a job."""

    SUBMIT = "submit"  # a job begins its life; never applied to an existing job
    # requested by people
    HALT = "halt"
    RESUME = "resume"
    STOP = "stop"
    # done by the engine
    CLAIM = "claim"  # a process takes the job into one of its slots
    EXPIRE = "expire"  # the lease ran out: the owner's process died or froze
    # reported by the attempt's own thread, once the job's code has really ended
    YIELD = "yield"  # did as requested: halted, or cleaned
    COMPLETE = "complete"
    FAIL = "fail"
    RETRY = "retry"  # failed, and has tries left
    RELEASE = "release"  # the attempt ends, the job does not: shutdown, or `clean` has to be tried again


class Fact(StrEnum):
    """A fact about a job. Some actions lead to another status if the fact holds; see EXCEPTIONS."""

    NEVER_BEGAN = "never began"  # no attempt was ever made: there is nothing to clean
    CRASHED_TOO_OFTEN = "crashed too often"  # its process died while running it JOBMANAGER_MAX_CRASHES times


ASKED = (Action.HALT, Action.RESUME, Action.STOP)
FINAL = frozenset({Status.COMPLETED, Status.STOPPED})
#: Statuses in which a thread works on the job, unless its process has died.
ATTENDED = frozenset({Status.RUNNING, Status.HALTING, Status.STOPPING})

_S, _A = Status, Action

TRANSITIONS: dict[tuple[Status, Action], Status] = {
    (_S.SUBMITTED, _A.CLAIM): _S.RUNNING,
    (_S.SUBMITTED, _A.HALT): _S.HALTED,  # nothing runs, so there is nothing to wait for
    (_S.SUBMITTED, _A.STOP): _S.STOPPING,  # an earlier attempt may have left something to clean
    (_S.RUNNING, _A.HALT): _S.HALTING,
    (_S.RUNNING, _A.STOP): _S.STOPPING,
    (_S.RUNNING, _A.COMPLETE): _S.COMPLETED,
    (_S.RUNNING, _A.FAIL): _S.FAILED,
    (_S.RUNNING, _A.RETRY): _S.SUBMITTED,  # with a later run_at: a waiting retry is not a status of its own
    (_S.RUNNING, _A.EXPIRE): _S.SUBMITTED,  # continues from its checkpoint elsewhere
    (_S.RUNNING, _A.RELEASE): _S.SUBMITTED,  # a shutdown hands it over
    (_S.HALTING, _A.YIELD): _S.HALTED,
    (_S.HALTING, _A.RESUME): _S.RUNNING,  # its thread never stopped
    (_S.HALTING, _A.STOP): _S.STOPPING,  # a stop beats a halt
    (_S.HALTING, _A.COMPLETE): _S.COMPLETED,  # the last unit of work beat the halt
    (_S.HALTING, _A.FAIL): _S.FAILED,
    (_S.HALTING, _A.RETRY): _S.HALTED,  # tried again when it is resumed
    (_S.HALTING, _A.EXPIRE): _S.HALTED,  # the work has ended, though not at a checkpoint
    (_S.HALTING, _A.RELEASE): _S.HALTED,
    (_S.HALTED, _A.RESUME): _S.SUBMITTED,  # back in the queue like any other
    (_S.HALTED, _A.STOP): _S.STOPPING,
    (_S.STOPPING, _A.CLAIM): _S.STOPPING,  # claimed to be cleaned
    (_S.STOPPING, _A.YIELD): _S.STOPPED,
    (_S.STOPPING, _A.FAIL): _S.FAILED,  # clean failed for good
    (_S.STOPPING, _A.EXPIRE): _S.STOPPING,  # without an owner, to be claimed for clean
    (_S.STOPPING, _A.RELEASE): _S.STOPPING,  # without an owner, to be claimed for clean
    (_S.FAILED, _A.RESUME): _S.SUBMITTED,  # continues from its last checkpoint; failures are counted from 0 again
    (_S.FAILED, _A.STOP): _S.STOPPING,  # roll back
}

#: Transitions that lead to another status if a fact about the job holds.
EXCEPTIONS: dict[tuple[Status, Action], tuple[Fact, Status]] = {
    (_S.SUBMITTED, _A.STOP): (Fact.NEVER_BEGAN, _S.STOPPED),
    (_S.RUNNING, _A.EXPIRE): (Fact.CRASHED_TOO_OFTEN, _S.FAILED),
}

#: Requests that are already fulfilled change nothing, and count as success.
ALREADY_SO = frozenset(
    {
        (_S.HALTING, _A.HALT),
        (_S.HALTED, _A.HALT),
        (_S.STOPPING, _A.STOP),
        (_S.STOPPED, _A.STOP),
        (_S.SUBMITTED, _A.RESUME),
        (_S.RUNNING, _A.RESUME),
    }
)

#: The statuses that fulfil a person's request.
REACHED: dict[Action, frozenset[Status]] = {
    _A.HALT: frozenset({_S.HALTED}),
    _A.RESUME: frozenset({_S.RUNNING}),
    _A.STOP: frozenset({_S.STOPPED}),
}

#: The statuses in which a person's request may still be fulfilled.
UNDER_WAY: dict[Action, frozenset[Status]] = {
    _A.HALT: frozenset({_S.HALTING}),
    _A.RESUME: frozenset({_S.SUBMITTED}),
    _A.STOP: frozenset({_S.STOPPING}),
}


def allowed(status: Status) -> list[Action]:
    """Return the actions that a person may request of a job in this status and that would change it.

    >>> [str(action) for action in allowed(Status.HALTED)]
    ['resume', 'stop']
    >>> allowed(Status.COMPLETED)
    []
    """
    return [action for action in ASKED if (status, action) in TRANSITIONS]


def advance(job_id: str, status: Status, action: Action, facts: Collection[Fact] = ()) -> Status:
    """Return the status that *action* leads to; the same status if the request is already fulfilled.

    *facts* are the facts that hold for the job. Raises NotAllowed, which names the status and the allowed actions.

    >>> advance("7", Status.RUNNING, Action.HALT)
    <Status.HALTING: 'halting'>
    >>> advance("7", Status.SUBMITTED, Action.STOP, {Fact.NEVER_BEGAN})
    <Status.STOPPED: 'stopped'>
    """
    edge = (status, action)
    if edge in ALREADY_SO:
        return status
    if edge not in TRANSITIONS:
        raise NotAllowed(job_id, status, action, allowed(status))
    fact, otherwise = EXCEPTIONS.get(edge, (None, None))
    if otherwise is not None and fact in facts:
        return otherwise
    return TRANSITIONS[edge]
