"""A request takes effect once, even if connections break or the server is busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from jobmanager import Client
from jobmanager.client import Submission, Unreachable
from jobmanager.core.states import Status
from jobmanager.errors import Outdated, StoreUnavailable

#: How many bytes of a reply get through: none, or a part.
CUTS = [0, 400]
BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%s"
PROBLEM = b'{"type":"urn:jobmanager:problem:store-unavailable","detail":"The store does not answer."}'
OUR_BUSY = BUSY % (len(PROBLEM), PROBLEM)


@pytest.mark.parametrize("cut", CUTS)
def test_a_submission_with_a_lost_reply_makes_one_job(
    service: Any, proxy: Any, through: Callable[..., Client], cut: int
) -> None:
    proxy.plan = [cut, cut]

    job = through().submit("Steps", {"n": 1})

    assert proxy.requests == ["POST /jobs"] * 3
    assert service.jobs() == 1
    assert job.wait(10).status is Status.COMPLETED


def test_two_equal_submissions_make_two_jobs(service: Any, client: Client) -> None:
    assert client.submit("Steps").id != client.submit("Steps").id
    assert service.jobs() == 2


@pytest.mark.parametrize("answer", [OUR_BUSY.replace(b"503", b"429"), BUSY % (0, b"")])
def test_a_client_retries_only_after_the_retry_time_of_the_server(
    service: Any, proxy: Any, through: Callable[..., Client], answer: bytes
) -> None:
    proxy.plan = [answer]
    begin = time.monotonic()

    through().submit("Steps")

    assert 1 <= time.monotonic() - begin < 5
    assert service.jobs() == 1


def test_a_client_does_not_wait_for_a_retry_time_beyond_its_own(proxy: Any, through: Callable[..., Client]) -> None:
    proxy.plan = [OUR_BUSY.replace(b"Retry-After: 1", b"Retry-After: 3600")]
    begin = time.monotonic()

    with pytest.raises(StoreUnavailable) as refused:
        through().submit("Steps")

    assert refused.value.retry_after_seconds == 3600
    assert time.monotonic() - begin < 2


def test_submit_all_never_submits_the_jobs_twice(service: Any, proxy: Any, through: Callable[..., Client]) -> None:
    jobs = [Submission(type="Steps")] * 3
    proxy.plan = [0]
    with pytest.raises(Unreachable):
        through().submit_all(jobs)
    assert (service.jobs(), len(proxy.requests)) == (3, 1)

    # After a 503 from a proxy, the service may have the jobs: no retry. Its own 503 means that it has not.
    proxy.plan = [BUSY % (0, b"")]
    with pytest.raises(Exception, match="503"):
        through().submit_all(jobs)
    proxy.plan = [OUR_BUSY]
    through().submit_all(jobs)
    assert service.jobs() == 6


@pytest.mark.parametrize("verb", ["halt", "stop"])
def test_a_halt_or_stop_with_a_lost_reply_happens_once(
    client: Client, proxy: Any, through: Callable[..., Client], verb: str
) -> None:
    job = client.submit("Steps").wait(statuses=["running"])
    proxy.plan = [0, 30]

    done = getattr(through(), verb)(job.id, wait=5)

    assert done.status in (Status.HALTED, Status.STOPPED)
    assert [change.action for change in job.changes()].count(verb) == 1


def test_a_halt_with_if_match_and_a_lost_reply_succeeds(
    client: Client, proxy: Any, through: Callable[..., Client]
) -> None:
    job = client.submit("Steps").wait(statuses=["running"])
    proxy.plan = [0]

    assert through().halt(job.id, if_match=job.etag, wait=5).status in (Status.HALTING, Status.HALTED)

    client.wait(job.id, 5, statuses=["halted"])
    proxy.plan = [0]
    with pytest.raises(Outdated):
        through().stop(job.id, if_match=job.etag)
    assert client.get(job.id).status is Status.HALTED


def test_a_wait_may_be_longer_than_the_server_allows(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobmanager.client.flows._MOST_WAIT_SECONDS", 0)
    job = client.submit("Steps").wait(statuses=["running"])

    assert job.halt(wait=5).status is Status.HALTED
