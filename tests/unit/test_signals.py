"""The three Events behind a checkpoint: whatever the order in which others ask, no thread is left stranded."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest

from jobmanager.errors import LeaseLost, TimedOut, Unwind
from jobmanager.signals import Signals

Ask = Callable[[Signals], None]


def is_asked(signals: Signals) -> tuple[bool, bool, bool]:
    """Return whether halt, resume and stop are set."""
    return signals.halt.is_set(), signals.resume.is_set(), signals.stop.is_set()


def test_nothing_is_asked_of_a_new_thread() -> None:
    assert is_asked(Signals()) == (False, False, False)
    assert Signals().interrupt is None


def test_a_halt_is_met_at_the_next_checkpoint() -> None:
    signals = Signals()

    signals.ask_halt()

    assert signals.halt.is_set()


def test_a_resume_takes_back_a_halt_that_was_not_met_yet() -> None:
    signals = Signals()

    signals.ask_halt()
    signals.ask_resume()

    assert not signals.halt.is_set()


def test_a_stop_is_met_by_running_code_and_wakes_a_parked_thread() -> None:
    signals = Signals()

    signals.ask_stop()

    assert is_asked(signals) == (True, True, True)


def test_an_interrupt_is_met_by_running_code_and_wakes_a_parked_thread() -> None:
    signals = Signals()

    signals.ask_interrupt(Unwind("7"))

    assert is_asked(signals) == (True, True, False)
    assert isinstance(signals.interrupt, Unwind)


@pytest.mark.parametrize("last_words", [Signals.ask_stop, lambda signals: signals.ask_interrupt(LeaseLost("7"))])
@pytest.mark.parametrize("others", list(permutations([Signals.ask_halt, Signals.ask_resume, Signals.clear_requests])))
@pytest.mark.parametrize("place", range(4))
def test_neither_a_halt_nor_a_resume_can_strand_a_thread_that_has_to_end(
    last_words: Ask, others: tuple[Ask, ...], place: int
) -> None:
    signals = Signals()

    for ask in (*others[:place], last_words, *others[place:]):
        ask(signals)

    assert signals.halt.is_set(), "running code would go on"
    assert signals.resume.is_set(), "a parked thread would sleep"


def test_taking_a_request_leaves_room_for_the_next_one() -> None:
    signals = Signals()

    signals.ask_halt()
    signals.clear_requests()
    signals.ask_resume()

    assert is_asked(signals) == (False, True, False)


def test_the_first_interrupt_counts() -> None:
    signals = Signals()

    signals.ask_interrupt(Unwind("7"))
    signals.ask_interrupt(TimedOut("too long"))

    assert isinstance(signals.interrupt, Unwind)


@pytest.mark.parametrize("ask", [Signals.ask_halt, Signals.ask_stop])
def test_a_clean_is_disturbed_neither_by_a_halt_nor_by_a_stop(ask: Ask) -> None:
    signals = Signals()
    signals.ask_stop()

    signals.ignore_requests()
    ask(signals)

    assert not signals.halt.is_set()
    assert not signals.stop.is_set()


@pytest.mark.parametrize("is_before", [True, False])
def test_a_clean_hears_an_interrupt(is_before: bool) -> None:
    signals = Signals()

    if is_before:
        signals.ask_interrupt(Unwind("7"))
    signals.ignore_requests()
    if not is_before:
        signals.ask_interrupt(Unwind("7"))

    assert signals.halt.is_set()
    assert isinstance(signals.interrupt, Unwind)


@pytest.mark.parametrize("is_before", [True, False])
def test_a_clean_is_not_disturbed_by_the_time_limit_of_the_work(is_before: bool) -> None:
    signals = Signals()

    if is_before:
        signals.ask_interrupt(TimedOut("too long"))
    signals.ignore_requests()
    if not is_before:
        signals.ask_interrupt(TimedOut("too long"))

    assert signals.interrupt is None
    assert not signals.halt.is_set()


@pytest.mark.parametrize(
    "ask", [Signals.ask_halt, Signals.ask_resume, Signals.ask_stop, Signals.clear_requests, Signals.ignore_requests]
)
def test_asking_for_the_same_twice_is_asking_once(ask: Ask) -> None:
    once, twice = Signals(), Signals()

    ask(once)
    ask(twice)
    ask(twice)

    assert is_asked(once) == is_asked(twice)
