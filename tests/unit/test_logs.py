"""A line of the log says which request or job it belongs to, for people or for programs."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from jobmanager.observability import logs

Lines = Callable[[], list[str]]

JOB_ID = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """Return what returns the lines that were logged; logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    names = ("jobmanager", "gunicorn.error")
    before = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in map(logging.getLogger, names)]

    def lines() -> list[str]:
        return capfd.readouterr().err.splitlines()

    yield lines
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, its_level, propagates, its_handlers in before:
        logger.setLevel(its_level)
        logger.propagate = propagates
        logger.handlers[:] = its_handlers


def log_in_thread(name: str, logger: str = "jobmanager.engine.attempt") -> None:
    thread = threading.Thread(target=logging.getLogger(logger).warning, args=("read %d rows", 7), name=name)
    thread.start()
    thread.join()


def test_json_lines_tell_what_they_belong_to_and_leave_out_what_is_not_there(lines: Lines) -> None:
    logs.set_up("json")
    token = logs.request_id.set("abc")
    logging.getLogger("jobmanager.http").warning("refused: %s", "zu früh")
    logs.request_id.reset(token)
    log_in_thread(f"job-{JOB_ID}-2")
    log_in_thread("other", f"jobmanager.jobs.{JOB_ID}")

    first, second, third = map(json.loads, lines())

    assert first.pop("timestamp").endswith("+00:00")
    assert first == {
        "message": "refused: zu früh",
        "level": "WARNING",
        "logger": "jobmanager.http",
        "request_id": "abc",
    }
    assert (second["message"], second["job_id"], second["attempt"]) == ("read 7 rows", JOB_ID, 2)
    assert third["job_id"] == JOB_ID
    assert "request_id" not in second


def test_a_traceback_is_part_of_its_json_line(lines: Lines) -> None:
    logs.set_up("json")
    try:
        raise ValueError("no\nway")
    except ValueError:
        logging.getLogger("jobmanager").exception("It failed.")

    (line,) = map(json.loads, lines())

    assert "ValueError: no\nway" in line["exc_info"]


def test_lines_for_people_tell_it_too(lines: Lines) -> None:
    logs.set_up("console")
    token = logs.request_id.set("abc")
    logging.getLogger("jobmanager.http").warning("refused")
    logs.request_id.reset(token)
    log_in_thread(f"job-{JOB_ID}-2")

    first, second = lines()

    assert first.endswith(" WARNING jobmanager.http [request_id=abc] refused")
    assert second.endswith(f" WARNING jobmanager.engine.attempt [job_id={JOB_ID}] read 7 rows")


def test_no_text_can_forge_a_line_or_command_the_terminal(lines: Lines) -> None:
    logs.set_up("console")
    forged = "read\n2026-01-01 00:00:00,000 ERROR jobmanager forged \x1b]0;title\x07\r\x9b2J\u202e\u2028end\tof it"

    logging.getLogger(f"jobmanager.jobs.{JOB_ID}").warning("%s", forged)
    try:
        raise ValueError("no\x1b[2J\nway")
    except ValueError:
        logging.getLogger("jobmanager").exception("It failed.")
    first, second, third, *traceback = lines()

    assert first.endswith(f" WARNING jobmanager.jobs.{JOB_ID} [job_id={JOB_ID}] read")
    assert second == (
        "    2026-01-01 00:00:00,000 ERROR jobmanager forged \\x1b]0;title\\x07\\r\\x9b2J\\u202e\\u2028end\tof it"
    )
    assert third.endswith(" ERROR jobmanager It failed.")
    assert traceback[-2:] == ["    ValueError: no\\x1b[2J", "    way"]
    assert all(line.startswith("    ") for line in traceback)


def test_it_can_be_set_up_again_without_lines_coming_twice(lines: Lines) -> None:
    for _ in range(3):
        logs.set_up("json")

    logging.getLogger("jobmanager").info("once")
    logging.getLogger("sqlalchemy").info("not of interest")
    logging.getLogger(f"jobmanager.jobs.{JOB_ID}").info("kept with the job")

    assert len(lines()) == 1
