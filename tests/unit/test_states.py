"""The life of a job, as the table has it: every pair of a status and an action is decided, and nobody is stuck."""

from __future__ import annotations

from itertools import product

import pytest

from jobmanager.core.states import (
    ALREADY_SO,
    ASKED,
    ATTENDED,
    EXCEPTIONS,
    FINAL,
    REACHED,
    TRANSITIONS,
    UNDER_WAY,
    Action,
    Fact,
    Status,
    advance,
    allowed,
)
from jobmanager.errors import NotAllowed

PAIRS = list(product(Status, Action))
#: Every edge there is, as (from, action, facts, to).
EDGES = [(status, action, frozenset[Fact](), to_status) for (status, action), to_status in TRANSITIONS.items()] + [
    (status, action, frozenset({fact}), to_status) for (status, action), (fact, to_status) in EXCEPTIONS.items()
]


def reachable_from(start: Status, actions: frozenset[Action]) -> set[Status]:
    """Return the statuses that a job can get to by these actions."""
    seen, to_visit = {start}, [start]
    while to_visit:
        here = to_visit.pop()
        found = {to_status for status, action, _, to_status in EDGES if status is here and action in actions} - seen
        seen |= found
        to_visit += found
    return seen


@pytest.mark.parametrize(("status", "action"), PAIRS, ids=str)
def test_every_action_in_every_status_is_carried_out_or_already_so_or_refused(status: Status, action: Action) -> None:
    if (status, action) in TRANSITIONS:
        assert (status, action) not in ALREADY_SO
        assert advance("7", status, action) is TRANSITIONS[status, action]
    elif (status, action) in ALREADY_SO:
        assert advance("7", status, action) is status
    else:
        with pytest.raises(NotAllowed) as refused:
            advance("7", status, action)
        assert refused.value.status == status
        assert refused.value.allowed == tuple(allowed(status))
        assert str(status) in str(refused.value)
        assert all(str(choice) in str(refused.value) for choice in allowed(status))


@pytest.mark.parametrize(("status", "action", "facts", "to_status"), EDGES, ids=str)
def test_every_edge_leads_where_the_table_says(
    status: Status, action: Action, facts: frozenset[Fact], to_status: Status
) -> None:
    assert advance("7", status, action, facts) is to_status


@pytest.mark.parametrize(("status", "action"), PAIRS, ids=str)
def test_a_fact_decides_only_the_edge_that_it_was_made_for(status: Status, action: Action) -> None:
    if (status, action) not in TRANSITIONS:
        return

    for fact in Fact:
        decided = EXCEPTIONS.get((status, action))
        expected = decided[1] if decided is not None and decided[0] is fact else TRANSITIONS[status, action]
        assert advance("7", status, action, {fact}) is expected


def test_an_exception_belongs_to_an_edge_of_the_table() -> None:
    assert EXCEPTIONS.keys() <= TRANSITIONS.keys()


def test_every_status_can_be_reached_from_a_submission() -> None:
    assert reachable_from(Status.SUBMITTED, frozenset(Action)) == set(Status)


def test_a_final_status_has_no_exit_at_all() -> None:
    assert {status for status, *_ in EDGES} == set(Status) - FINAL


@pytest.mark.parametrize("status", sorted(set(Status) - FINAL))
def test_a_person_can_ask_something_of_a_job_that_is_not_final_unless_its_stop_is_under_way(status: Status) -> None:
    assert allowed(status) or status is Status.STOPPING


@pytest.mark.parametrize("status", sorted(set(Status) - FINAL))
def test_a_job_that_is_not_final_can_be_brought_to_an_end_by_a_stop(status: Status) -> None:
    reachable = reachable_from(status, frozenset({Action.STOP, Action.CLAIM, Action.YIELD}))

    assert (status, Action.STOP) in TRANSITIONS or (status, Action.STOP) in ALREADY_SO
    assert Status.STOPPED in reachable


@pytest.mark.parametrize("status", sorted(ATTENDED))
def test_a_job_whose_process_died_or_left_is_left_to_another_one(status: Status) -> None:
    for action in (Action.EXPIRE, Action.RELEASE):
        assert advance("7", status, action) not in {Status.RUNNING, Status.HALTING}


@pytest.mark.parametrize("action", ASKED)
def test_what_was_asked_for_is_fulfilled_by_being_reached_or_is_still_under_way(action: Action) -> None:
    answers = {to_status for _, asked, _, to_status in EDGES if asked is action}
    already = {status for status, asked in ALREADY_SO if asked is action}

    assert answers | already == REACHED[action] | UNDER_WAY[action]


@pytest.mark.parametrize("status", sorted(Status))
def test_what_is_allowed_is_what_would_change_the_job(status: Status) -> None:
    for action in ASKED:
        changes = (status, action) in TRANSITIONS

        assert (action in allowed(status)) is changes


def test_a_final_status_says_so_when_it_refuses() -> None:
    with pytest.raises(NotAllowed, match=r"A job that is completed cannot be asked to halt \(it is final\)\."):
        advance("7", Status.COMPLETED, Action.HALT)


@pytest.mark.parametrize(
    ("status", "action", "to_status"),
    [
        (Status.HALTING, Action.STOP, Status.STOPPING),
        (Status.HALTING, Action.COMPLETE, Status.COMPLETED),
        (Status.HALTING, Action.RESUME, Status.RUNNING),
        (Status.HALTING, Action.EXPIRE, Status.HALTED),
        (Status.HALTING, Action.RETRY, Status.HALTED),
        (Status.FAILED, Action.RESUME, Status.SUBMITTED),
        (Status.FAILED, Action.STOP, Status.STOPPING),
        (Status.STOPPING, Action.EXPIRE, Status.STOPPING),
    ],
)
def test_the_edges_that_others_got_wrong(status: Status, action: Action, to_status: Status) -> None:
    assert advance("7", status, action) is to_status
