"""Read what a campaign left behind (requests acknowledged, changes, files, traces) and decide whether it is right."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from faults import as_json
from gunicorn_server import CHECKPOINT_SECONDS, LEASE_SECONDS, Line, Server

from jobmanager.core.states import EXCEPTIONS, TRANSITIONS, Action, Fact, Status

#: By how much, in microseconds, processes may differ in what they take for the clock of a database.
_CLOCK_SKEW = 100_000

#: How long, in nanoseconds, an attempt that has lost its job may speak until a checkpoint tells it.
_BURST = (CHECKPOINT_SECONDS + 0.1) * 1e9

#: The types that keep the number of the attempt in their cursors.
FENCED = ("Fenced", "Flaky")

_NOTE_CURSORS_ON_SQLITE = """
CREATE TABLE saved_cursors (number INTEGER PRIMARY KEY, job_id TEXT, attempt INTEGER, cursor TEXT);
CREATE TRIGGER note_cursor AFTER UPDATE OF cursor ON jobs BEGIN
    INSERT INTO saved_cursors (job_id, attempt, cursor) VALUES (NEW.id, NEW.attempt, NEW.cursor);
END;
"""
_NOTE_CURSORS_ON_POSTGRES = """
CREATE TABLE saved_cursors (number BIGSERIAL PRIMARY KEY, job_id TEXT, attempt INTEGER, cursor TEXT);
CREATE FUNCTION note_cursor() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO saved_cursors (job_id, attempt, cursor) VALUES (NEW.id, NEW.attempt, NEW.cursor);
    RETURN NULL;
END $$;
CREATE TRIGGER note_cursor AFTER UPDATE OF cursor ON jobs FOR EACH ROW EXECUTE FUNCTION note_cursor();
"""


def note_cursors(server: Server) -> None:
    """Have the database itself note every cursor that is saved, with the attempt that held the job by then."""
    server.execute(_NOTE_CURSORS_ON_POSTGRES if "DATABASE_URL" in server.settings else _NOTE_CURSORS_ON_SQLITE)


def check_records(server: Server, acknowledged: Mapping[str, str], *, has_one_clock: bool) -> int:
    """Check that each acknowledged submission (tag to job) has its one job, and that each job's changes are a path.

    Returns how many changes there are.
    """
    rows = server.rows(
        "SELECT jobs.id, args, status, jobs.attempt AS attempt_now, owner, seq, action, from_status, to_status,"
        " changes.attempt, asked_at_change, at FROM jobs LEFT JOIN"
        " (SELECT *, asked_at AS asked_at_change FROM changes) AS changes ON changes.job_id = jobs.id ORDER BY seq"
    )
    by_job: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_job.setdefault(row["id"], []).append(row)
    tags = Counter(tag_of(changes[0]) for changes in by_job.values())
    assert all(count == 1 for count in tags.values()), tags.most_common(3)
    for tag, job in acknowledged.items():
        assert job in by_job, f"{job} is lost"
        assert tag_of(by_job[job][0]) == tag
    for changes in by_job.values():
        _check_path(changes)
        if has_one_clock:
            assert all(change["asked_at_change"] <= change["at"] + _CLOCK_SKEW for change in changes), changes
    return len(rows)


def tag_of(job: Mapping[str, Any]) -> str:
    """Return what names a submission among its job's arguments."""
    args = as_json(job["args"])
    return str(args.get("tag") or args["from_date"])


def _check_path(changes: list[dict[str, Any]]) -> None:
    """Check that what happened to one job is a path through the table, and that the job stands at its end."""
    first, last = changes[0], changes[-1]
    assert (first["action"], first["from_status"], first["to_status"]) == ("submit", None, "submitted"), changes
    for before, change in pairwise(changes):
        status, action = Status(change["from_status"]), Action(change["action"])
        assert status == before["to_status"], f"{change} follows {before}"
        fact, otherwise = EXCEPTIONS.get((status, action), (None, None))
        if fact is Fact.NEVER_BEGAN and change["attempt"] == 0:
            assert change["to_status"] == otherwise, change
        else:
            assert change["to_status"] == TRANSITIONS[status, action], change
        assert change["attempt"] == before["attempt"] + (action is Action.CLAIM), f"{change} follows {before}"
    assert (last["to_status"], last["attempt"]) == (last["status"], last["attempt_now"]), changes
    if last["status"] in ("completed", "stopped", "failed"):
        assert last["owner"] is None, changes


def check_cursors(server: Server) -> int:
    """Check that no cursor was saved by another attempt than that which held the job; returns how many were."""
    types = {row["id"]: row["type"] for row in server.rows("SELECT id, type FROM jobs")}
    saved = server.rows("SELECT * FROM saved_cursors ORDER BY number")
    done: Counter[str] = Counter()
    for row in saved:
        if types[row["job_id"]] not in FENCED:
            continue
        units, _length, _file, attempt = as_json(row["cursor"])
        assert attempt == row["attempt"], f"a stale attempt has saved its cursor: {row}"
        assert units >= done[row["job_id"]], f"progress went backwards: {row}"
        done[row["job_id"]] = units
    return len(saved)


def check_end(server: Server, job: dict[str, Any], undisturbed: Mapping[tuple[str, str], str]) -> int:
    """Check what a job left behind, and what its attempts told; returns how many lines came from a stale attempt.

    *undisturbed* has the SHA-256 of exports by format and last day.
    """
    trace = server.trace(job["id"])
    told = f"{job}\n{server.changes(job['id'])}\n{trace}"
    current, late = _without_late(trace)
    _check_attempts(current, told)
    _check_late(trace, late, told)
    assert job["owner"] is None, told
    if job["status"] == "completed":
        _check_result(server, job, undisturbed, told)
        assert job["type"] == "Export" or current[-1].what == "end", told
    elif job["status"] == "stopped":
        assert not server.folder(job["id"]).exists(), told
        assert job["type"] == "Export" or job["attempt"] == 0 or current[-1].what == "cleaned", told
    else:
        assert (job["type"], job["status"]) == ("Flaky", "failed"), told
    return len(late)


def _check_result(server: Server, job: dict[str, Any], undisturbed: Mapping[tuple[str, str], str], told: str) -> None:
    args, result = as_json(job["args"]), as_json(job["result"])
    file = server.folder(job["id"]) / result.get("file", "units")
    content = file.read_bytes()
    if job["type"] == "Export":
        assert hashlib.sha256(content).hexdigest() == undisturbed[args["format"], args["to_date"]], told
        assert (len(content), hashlib.sha256(content).hexdigest()) == (result["bytes"], result["sha256"]), told
    else:
        assert content == b"".join(f"{unit}\n".encode() for unit in range(args["units"])), told


def _without_late(trace: Iterable[Line]) -> tuple[list[Line], list[Line]]:
    """Return the lines of a trace, and apart those of attempts that spoke when a later one had."""
    newest = 0
    current, late = [], []
    for line in trace:
        (current if line.attempt >= newest else late).append(line)
        newest = max(newest, line.attempt)
    return current, late


def _check_attempts(current: list[Line], told: str) -> None:
    """Check that no attempt begins behind an earlier one, or beyond what was done, and that each unit has its turn."""
    cursor, unit = 0, -1
    for line in current:
        if line.what == "begin":
            # It goes on from a checkpoint: behind the last one, and not beyond what was done.
            assert cursor <= line.unit <= unit + 1, f"{line} does not go on from {cursor} to {unit + 1}: {told}"
            cursor, unit = line.unit, line.unit - 1
        elif line.what == "tick":
            # A unit that raised is done again.
            assert line.unit == unit + 1, f"{line} is not unit {unit + 1}: {told}"
            unit = line.unit


def _check_late(trace: list[Line], late: list[Line], told: str) -> None:
    """Check that an attempt that wrote after a later one began was silent for a lease before, and soon learnt of it.

    It may have been frozen at any place: just before it begins, ends, or cleans, in the midst of a unit, or when its
    checkpoint was saved already: then it looks again only when the next is due.
    """
    for attempt in {line.attempt for line in late}:
        lines = [line for line in late if line.attempt == attempt]
        own = [line.at for line in trace if line.attempt == attempt and line.at <= lines[0].at]
        # It may have spoken once or twice before the later attempt began, until its next checkpoint was due.
        gaps = [(after - before) / 1e9 for before, after in pairwise(own) if lines[0].at - after < _BURST]
        silent_seconds = max(gaps, default=LEASE_SECONDS)
        assert silent_seconds > LEASE_SECONDS * 0.9, f"{lines[0]} comes from one that lives: {told}"
        units = [line.unit for line in lines if line.what == "tick"]
        assert units == list(range(units[0], units[0] + len(units))) if units else True, told
        due_at = lines[0].at + CHECKPOINT_SECONDS * 1e9
        unaware = [line for line in lines if line.what == "tick" and line.at > due_at]
        assert len(unaware) <= 1, f"{unaware} come from one that knew of its checkpoint: {told}"
