"""Submit, read and control jobs with a client, and get the right errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from jobmanager import Client
from jobmanager.client import LogLine, Refused, Submission, Unexpected, Unreachable, models, protocol
from jobmanager.core.states import Status
from jobmanager.errors import (
    ConfigError,
    Conflict,
    InvalidRequest,
    JobManagerError,
    NotAllowed,
    NotFound,
    Outdated,
    QueueFull,
    UnknownJob,
    UnknownType,
)
from jobmanager.http.errors import KINDS
from jobmanager.http.schemas import response_models

SHOWN = {
    models.Snapshot: response_models.JobShown,
    models.Progress: response_models.ProgressShown,
    models.Checkpoint: response_models.CheckpointShown,
    models.Lease: response_models.LeaseShown,
    models.Change: response_models.ChangeShown,
    models.LogLine: response_models.LineShown,
    models.BulkResult: response_models.SweepShown,
    models.Unchanged: response_models.Unchanged,
    models.JobType: response_models.TypeShown,
}


@pytest.mark.parametrize("value", SHOWN, ids=lambda value: value.__name__)
def test_a_value_has_the_fields_of_the_server(value: type[BaseModel]) -> None:
    assert value.model_fields.keys() - {"etag"} == SHOWN[value].model_fields.keys()


def test_the_client_raises_the_error_that_the_manager_raised() -> None:
    assert {kind.name: error for error, kind in KINDS.items()}.items() <= protocol.PROBLEMS.items()


def test_a_job_keeps_every_field_of_its_submission(client: Client) -> None:
    run_at = datetime.now(UTC) + timedelta(hours=1)

    job = client.submit(
        "Steps", {"n": 3}, priority=7, run_at=run_at, max_attempts=4, timeout_seconds=60, labels={"for": "may:day"}
    )

    again = client.get(job.id)
    assert (again.type, again.args, again.status) == ("Steps", {"n": 3}, Status.SUBMITTED)
    assert (again.priority, again.run_at, again.max_attempts, again.timeout_seconds) == (7, run_at, 4, 60)
    assert again.labels == {"for": "may:day"}
    assert again.etag == job.etag is not None


def test_an_idempotency_key_makes_one_job_and_refuses_another_submission(client: Client) -> None:
    first = client.submit("Steps", {"n": 1}, idempotency_key="may")

    assert client.submit("Steps", {"n": 1}, idempotency_key="may").id == first.id
    with pytest.raises(Conflict, match="idempotency key"):
        client.submit("Steps", {"n": 2}, idempotency_key="may")
    with pytest.raises(InvalidRequest):
        client.submit("Steps", {"n": 2}, idempotency_key="")


def test_jobs_are_listed_page_by_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobmanager.client.flows._LONGEST_PAGE", 5)
    late = datetime.now(UTC) + timedelta(hours=1)
    ids = [client.submit("Steps", labels={"n": str(n)}, run_at=late).id for n in range(13)]

    assert [job.id for job in client.list()] == ids[::-1]
    assert [job.id for job in client.list(limit=7)] == ids[:-8:-1]
    assert [job.id for job in itertools.islice(client.list(status="submitted", type="Steps"), 2)] == ids[:-3:-1]
    assert [job.id for job in client.list(labels={"n": "7"}, status=[Status.SUBMITTED, "running"])] == [ids[7]]
    assert not list(client.list(status="failed"))
    assert not list(client.list(submitted_before=late - timedelta(days=1)))


def test_submit_all_returns_the_ids_in_order(client: Client) -> None:
    ids = client.submit_all(Submission(type="Steps", args={"n": n}, priority=n) for n in range(100))

    assert {job.id: job.priority for job in client.list(limit=500)} == dict(zip(ids, range(100), strict=True))


def test_a_job_is_halted_resumed_and_stopped(client: Client) -> None:
    job = client.submit("Steps")
    job.wait(statuses=["running"])

    halted = job.halt(wait=5, reason="looks wrong")
    assert halted.status is Status.HALTED
    assert halted.allowed == ["resume", "stop"]
    assert job.halt().status is Status.HALTED
    assert job.resume(wait=5).status is Status.RUNNING
    assert job.stop(wait=5).status is Status.STOPPED

    changes = job.changes()
    assert [str(change.to_status) for change in changes[:4]] == ["submitted", "running", "halting", "halted"]
    assert changes[2].reason == "looks wrong"
    with pytest.raises(NotAllowed) as refused:
        job.resume()
    assert (refused.value.job_id, refused.value.status, refused.value.action) == (job.id, "stopped", "resume")
    assert refused.value.allowed == ()


def test_if_match_leaves_a_changed_job_alone(client: Client) -> None:
    seen = client.submit("Steps").wait(statuses=["running"])
    seen.halt(wait=5)

    with pytest.raises(Outdated) as refused:
        seen.stop(if_match=seen.etag)

    assert refused.value.status == "halted"
    now = seen.refresh()
    assert now.stop(if_match=now.etag, wait=5).status is Status.STOPPED


def test_a_filter_selects_the_jobs_to_halt_resume_or_stop(client: Client) -> None:
    ids = client.submit_all(Submission(type="Steps", labels={"of": "us"}) for _ in range(3))
    other = client.submit("Steps")

    halted = client.halt_all(labels={"of": "us"}, reason="all of us")
    assert sorted(halted.changed_ids) == ids
    for job_id in ids:
        client.wait(job_id, 10)
    resumed = client.resume_all(status="halted", spread_seconds=60)
    assert (resumed.matched, resumed.changed) == (3, 3)
    assert client.stop_all(all=True).matched == 4
    assert other.wait(10).status is Status.STOPPED
    with pytest.raises(InvalidRequest, match="Select jobs by status"):
        client.stop_all()


def test_a_log_is_read_to_its_end(client: Client) -> None:
    job = client.submit("Steps", {"n": 20, "seconds": 0}).wait(10)

    lines = list(job.log())

    assert [line.message for line in lines] == [f"step {step}" for step in range(20)]
    assert [line.number for line in job.log(after=lines[4].number)] == [line.number for line in lines[5:]]


def test_a_log_whose_pages_are_bounded_by_bytes_is_read_to_its_end(client: Client) -> None:
    job = client.submit("Wordy").wait(20)

    lines = list(job.log())
    followed = [update for update in job.follow() if isinstance(update, LogLine)]

    assert [int(line.message.split()[0]) for line in lines] == list(range(300))
    assert followed == lines


def test_job_types_have_a_description_and_a_schema_of_their_arguments(quiet: Client) -> None:
    types = {job_type.type: job_type for job_type in quiet.job_types()}

    assert types["Steps"].description == "Takes steps, and logs each."
    assert types["File"].args_schema["required"] == ["size"]


@pytest.mark.parametrize(
    ("ask", "error", "attributes"),
    [
        (lambda client: client.get("nobody"), UnknownJob, {"job_id": "nobody"}),
        (lambda client: client.get(".."), UnknownJob, {"job_id": ".."}),
        (lambda client: client.get("a/b?c#d\ud800"), UnknownJob, {}),
        (lambda client: client.changes("nobody"), UnknownJob, {"job_id": "nobody"}),
        (lambda client: list(client.log("nobody")), UnknownJob, {"job_id": "nobody"}),
        (lambda client: client.wait("nobody"), UnknownJob, {"job_id": "nobody"}),
        (lambda client: list(client.follow("nobody")), UnknownJob, {"job_id": "nobody"}),
        (lambda client: client.halt("nobody"), UnknownJob, {"job_id": "nobody"}),
        (lambda client: client.submit("Nothing"), UnknownType, {"field": "type"}),
        (lambda client: client.submit("Steps", {"n": "x"}), InvalidRequest, {"field": "args.n"}),
        (lambda client: client.submit("Steps", {"n": float("nan")}), InvalidRequest, {}),
        (lambda client: client.submit("Steps", {"n": object()}), InvalidRequest, {}),
        (
            lambda client: client.submit_all([Submission(type="Steps"), Submission(type="No")]),
            InvalidRequest,
            {"field": "1.type"},
        ),
        (lambda client: client.submit_all([Submission(type="S", idempotency_key="a")]), InvalidRequest, {}),
        (lambda client: client.list(status="never").__next__(), InvalidRequest, {"field": "status.0"}),
        (lambda client: client.download(client.submit("Fails").id), NotFound, {}),
    ],
)
def test_a_refused_request_raises_the_error_of_the_manager(
    quiet: Client, ask: Callable[[Client], Any], error: type[JobManagerError], attributes: dict[str, Any]
) -> None:
    with pytest.raises(error) as refused:
        ask(quiet)

    assert type(refused.value) is error
    assert {name: getattr(refused.value, name) for name in attributes} == attributes


def test_an_error_names_every_wrong_field(quiet: Client) -> None:
    with pytest.raises(InvalidRequest) as refused:
        quiet.submit("Steps", {"n": "x", "seconds": "y"})

    assert {path for path, _ in refused.value.faults} == {("args", "n"), ("args", "seconds")}
    assert str(refused.value)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://a", "http://", "http://a:99999", "http://[", "http://a b"]
)
def test_a_client_refuses_an_invalid_url(url: str) -> None:
    with pytest.raises(ConfigError, match="Invalid URL"):
        Client(url)


def test_a_missing_server_is_reported_as_unreachable() -> None:
    with (
        Client("http://127.0.0.1:9", retry_seconds=0.3) as client,
        pytest.raises(Unreachable, match=r"http://127.0.0.1:9 cannot be reached: connection refused\.$"),
    ):
        client.get("any")


def problem_reply(status: int, document: str) -> bytes:
    """Return a reply with a problem document."""
    return f"HTTP/1.1 {status} No\r\nContent-Length: {len(document)}\r\n\r\n{document}".encode()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Unexpected),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Unexpected),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", Unexpected),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", Unexpected),
        (b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nhello", Refused),
        (b'HTTP/1.1 401 No\r\nContent-Length: 19\r\n\r\n{"detail":"a token"}'[:-1] + b"}", Refused),
        (b"nonsense\r\n\r\n", Unreachable),
        (problem_reply(503, '{"type": 5}'), Refused),
        (
            problem_reply(422, '{"type": "urn:jobmanager:problem:invalid-request", "detail": "x", "errors": 5}'),
            InvalidRequest,
        ),
        (
            problem_reply(
                422,
                '{"type": "urn:jobmanager:problem:invalid-request", "detail": "x", '
                '"errors": [5, {"pointer": 5}, {"pointer": "/a", "detail": null}]}',
            ),
            InvalidRequest,
        ),
        (
            problem_reply(409, '{"type": "urn:jobmanager:problem:not-allowed", "detail": "x", "allowed": 5}'),
            NotAllowed,
        ),
    ],
)
def test_a_reply_from_something_else_raises_an_error_of_the_client(
    proxy: Any, through: Callable[..., Client], answer: bytes, error: type[JobManagerError]
) -> None:
    proxy.plan = [answer]

    with pytest.raises(error):
        through(retry_seconds=0).get("any")


def test_a_full_queue_is_an_error_after_the_retry_time(service: Any) -> None:
    service.end()
    service.settings = type(service.settings)(data_dir=service.settings.data_dir, queue_limit=1, slots=0)
    service.start()
    with Client(service.url, retry_seconds=1) as client:
        client.submit("Steps")

        with pytest.raises(QueueFull) as refused:
            client.submit("Steps")

    assert refused.value.retry_after_seconds == 5


@pytest.mark.parametrize("empty", [{"status": []}, {"labels": {}}])
def test_an_empty_filter_does_not_select_every_job(service: Any, empty: dict[str, Any]) -> None:
    with Client(service.url) as client:
        job = client.submit("Steps")

        with pytest.raises(InvalidRequest, match="is empty"):
            client.stop_all(type="Steps", **empty)

        assert job.refresh().status not in ("stopping", "stopped")
        job.stop(wait=10)
