"""A log keeps its newest lines, and says how many it has lost."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmanager.core.job_log import (
    LONGEST_LINE,
    Entry,
    LogLimits,
    LogSize,
    entry_of,
    line_text,
    lines_noted,
    note_line,
)
from jobmanager.core.values import LogLine

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def size_of(entries: list[Entry]) -> LogSize:
    return LogSize(lines=len(entries), bytes=sum(entry.bytes for entry in entries))


@given(sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=200))
def test_no_more_is_dropped_than_has_to_be(sizes: list[int]) -> None:
    limits = LogLimits(lines=100, bytes=20_000)
    entries = [Entry(number=number, bytes=size) for number, size in enumerate(sizes)]

    dropped = limits.surplus(entries, size_of(entries))
    left = size_of(entries[len(dropped) :])

    assert dropped == entries[: len(dropped)]
    assert left.lines < limits.lines
    assert left.bytes + len(limits.note(dropped)) <= limits.bytes
    if dropped:
        with_one_more = size_of(entries[len(dropped) - 1 :])
        assert with_one_more.lines >= limits.lines or with_one_more.bytes + 200 > limits.bytes


@pytest.mark.parametrize(
    ("lines", "size", "is_worth_it"), [(110, 0, False), (111, 0, True), (1, 1100, False), (1, 1101, True)]
)
def test_lines_are_dropped_once_the_log_is_a_tenth_too_long(lines: int, size: int, is_worth_it: bool) -> None:
    assert LogLimits(lines=100, bytes=1000).is_worth_dropping(LogSize(lines=lines, bytes=size)) is is_worth_it


def test_a_note_counts_the_lines_of_the_note_that_it_replaces() -> None:
    limits = LogLimits()
    earlier = note_line(limits.note([Entry(number=1, bytes=0)] * 7), NOW)

    later = limits.note([entry_of(1, earlier), Entry(number=2, bytes=0)])

    assert later == "8 earlier lines were dropped: a job's log keeps the newest 10000 lines and 10485760 bytes."
    assert lines_noted(later) == 8


def test_a_line_up_to_the_limit_is_kept_as_it_is() -> None:
    assert line_text("x" * LONGEST_LINE) == "x" * LONGEST_LINE
    assert line_text("a\0b \udcff") == "a\\x00b \\udcff"


@pytest.mark.parametrize("character", ["x", "é", "😀", "\0", "\udcff"])
def test_a_line_of_any_characters_fits_into_the_shortest_log(character: str) -> None:
    limits = LogLimits(lines=100, bytes=65_536)
    text = line_text(character * 1_000_000, longest=limits.longest_line)
    line = LogLine(number=1, attempt=1, at=NOW, level="INFO", message=text)

    assert limits.surplus([entry_of(1, line)], LogSize().plus(line.message)) == []


def test_of_a_long_traceback_the_beginning_and_the_end_are_kept() -> None:
    kept = line_text("Traceback (most recent call last):\n" + "x" * 150_000 + "\nValueError: no")

    assert kept.startswith("Traceback (most recent call last):\nxxx")
    assert "\n… (50050 characters left out) …\n" in kept
    assert kept.endswith("\nValueError: no")
    assert len(kept) < LONGEST_LINE + 100
