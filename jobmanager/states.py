"""The life of a job, as data: statuses, actions, and the one table that joins them.

Pure: no I/O, no clock, no threads. Everything that changes a status asks `advance` first.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from jobmanager.errors import NotAllowed


class Status(StrEnum):
    """Where a job stands; stored and shown in lower case."""

    SUBMITTED = "submitted"  # waits for its time and a slot
    RUNNING = "running"
    HALTING = "halting"  # halt asked, not yet reached
    HALTED = "halted"
    STOPPING = "stopping"  # stop asked, or clean at work
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"


class Action(StrEnum):
    """What can happen to a job: the input of the state machine."""

    SUBMIT = "submit"  # a job begins its life; never asked of one that is there
    # asked by people
    HALT = "halt"
    RESUME = "resume"
    STOP = "stop"
    # done by the engine
    CLAIM = "claim"  # a process takes the job into one of its slots
    EXPIRE = "expire"  # the owner fell silent: its process died
    # reported by the attempt's own thread, once the job's code has really ceased
    YIELD = "yield"  # reached what was asked: halted, or cleaned
    COMPLETE = "complete"
    FAIL = "fail"
    RETRY = "retry"  # failed, and has tries left
    RELEASE = "release"  # the attempt ends, the job does not: shutdown, clean to be tried again


class Fact(StrEnum):
    """What, besides its status, decides where an action leads a job."""

    NEVER_BEGAN = "never began"  # no attempt was ever made: there is nothing to clean
    CRASHED_TOO_OFTEN = "crashed too often"  # its process died under it JOBMANAGER_MAX_CRASHES times


ASKED = (Action.HALT, Action.RESUME, Action.STOP)
FINAL = frozenset({Status.COMPLETED, Status.STOPPED})
#: Statuses in which a thread is, or was until its process died, at work on the job.
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
    (_S.RUNNING, _A.RETRY): _S.SUBMITTED,  # with a later run_at: a waiting retry is no status of its own
    (_S.RUNNING, _A.EXPIRE): _S.SUBMITTED,  # goes on from its checkpoint elsewhere
    (_S.RUNNING, _A.RELEASE): _S.SUBMITTED,  # a shutdown hands it over
    (_S.HALTING, _A.YIELD): _S.HALTED,
    (_S.HALTING, _A.RESUME): _S.RUNNING,  # its thread never stopped
    (_S.HALTING, _A.STOP): _S.STOPPING,  # a stop beats a halt
    (_S.HALTING, _A.COMPLETE): _S.COMPLETED,  # the last unit of work beat the halt
    (_S.HALTING, _A.FAIL): _S.FAILED,
    (_S.HALTING, _A.RETRY): _S.HALTED,  # whoever halted it decides when it is tried again
    (_S.HALTING, _A.EXPIRE): _S.HALTED,  # the work has ceased, if not as planned
    (_S.HALTING, _A.RELEASE): _S.HALTED,
    (_S.HALTED, _A.RESUME): _S.SUBMITTED,  # back in the queue like any other
    (_S.HALTED, _A.STOP): _S.STOPPING,
    (_S.STOPPING, _A.CLAIM): _S.STOPPING,  # somebody has to clean
    (_S.STOPPING, _A.YIELD): _S.STOPPED,
    (_S.STOPPING, _A.FAIL): _S.FAILED,  # clean failed for good
    (_S.STOPPING, _A.EXPIRE): _S.STOPPING,  # without an owner, to be claimed for clean
    (_S.STOPPING, _A.RELEASE): _S.STOPPING,  # likewise
    (_S.FAILED, _A.RESUME): _S.SUBMITTED,  # goes on from its last checkpoint, failures count anew
    (_S.FAILED, _A.STOP): _S.STOPPING,  # roll back
}

#: Where one fact about the job decides otherwise.
EXCEPTIONS: dict[tuple[Status, Action], tuple[Fact, Status]] = {
    (_S.SUBMITTED, _A.STOP): (Fact.NEVER_BEGAN, _S.STOPPED),
    (_S.RUNNING, _A.EXPIRE): (Fact.CRASHED_TOO_OFTEN, _S.FAILED),
}

#: Asking for what is already so changes nothing and is answered like success.
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

#: The statuses that fulfil what a person asked for.
REACHED: dict[Action, frozenset[Status]] = {
    _A.HALT: frozenset({_S.HALTED}),
    _A.RESUME: frozenset({_S.RUNNING}),
    _A.STOP: frozenset({_S.STOPPED}),
}

#: The statuses in which what was asked for may still come true.
UNDER_WAY: dict[Action, frozenset[Status]] = {
    _A.HALT: frozenset({_S.HALTING}),
    _A.RESUME: frozenset({_S.SUBMITTED}),
    _A.STOP: frozenset({_S.STOPPING}),
}


def allowed(status: Status) -> list[Action]:
    """Return what a person may ask of a job in this status that would change it.

    >>> [str(action) for action in allowed(Status.HALTED)]
    ['resume', 'stop']
    >>> allowed(Status.COMPLETED)
    []
    """
    return [action for action in ASKED if (status, action) in TRANSITIONS]


def advance(job_id: str, status: Status, action: Action, facts: Collection[Fact] = ()) -> Status:
    """Return the status that *action* leads to; the same one if what it asks for is already so.

    Raises NotAllowed, which names the status and what is allowed in it.

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
