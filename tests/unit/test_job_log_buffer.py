"""The lines of a job until they are stored: in order, none lost, and no more than the store would keep."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime

import pytest

from jobmanager.core.job_log import LogLimits
from jobmanager.engine.job_log_buffer import JobLogBuffer, JobLogger

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_buffer(lines: int = 100) -> JobLogBuffer:
    return JobLogBuffer(1, lambda: NOW, LogLimits(lines=lines, bytes=1 << 20))


def make_logger(buffer: JobLogBuffer) -> logging.Logger:
    return JobLogger("jobmanager.jobs.7", buffer)


def taken_from(buffer: JobLogBuffer) -> list[str]:
    """Take the lines out, as a thread does that stores them."""
    with buffer.taken() as lines:
        return [line.message for line in lines]


def test_lines_are_taken_once_and_in_order() -> None:
    buffer = make_buffer()
    logger = make_logger(buffer)

    logger.info("a %d", 1)
    logger.debug("left out")
    logger.error("b")

    assert taken_from(buffer) == ["a 1", "b"]
    assert taken_from(buffer) == []


def test_lines_that_could_not_be_stored_are_kept_before_newer_ones() -> None:
    buffer = make_buffer()
    logger = make_logger(buffer)
    logger.info("first")

    def fail_to_store() -> None:
        with buffer.taken():
            logger.info("second")
            raise OSError("away")

    with pytest.raises(OSError, match="away"):
        fail_to_store()

    assert taken_from(buffer) == ["first", "second"]


def test_no_more_lines_are_kept_than_the_store_would_keep() -> None:
    buffer = make_buffer(lines=100)
    logger = make_logger(buffer)

    for number in range(2_000):
        logger.info("line %d", number)

    note, *lines = taken_from(buffer)
    assert len(lines) <= 110
    assert lines == [f"line {number}" for number in range(2_000)][-len(lines) :]
    assert note.startswith(f"{2_000 - len(lines)} earlier lines were dropped")


def test_a_second_thread_takes_no_lines_while_the_first_stores_some() -> None:
    buffer = make_buffer()
    make_logger(buffer).info("line")
    found: list[int] = []

    def look() -> None:
        with buffer.taken(waits=False) as lines:
            found.append(len(lines))

    with buffer.taken() as lines:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert len(lines) == 1

    assert found == [0]


def test_a_message_that_cannot_be_formatted_is_kept_as_it_was_given() -> None:
    buffer = make_buffer()

    buffer.keep_record(logging.LogRecord("job", logging.INFO, __file__, 1, "%d steps", ("many",), None))

    assert taken_from(buffer) == ["%d steps"]
