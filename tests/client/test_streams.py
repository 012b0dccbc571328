"""Clients read event streams, and miss nothing if a stream breaks or is refused."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from listening import Listener, assert_whole

from jobmanager import Client
from jobmanager.client import Change
from jobmanager.core.states import Status

pytestmark = pytest.mark.skipif(find_spec("jobmanager.engine.change_feed") is None, reason="this server has no streams")

NO_ROOM = b"HTTP/1.1 503 Full\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


def test_waiting_for_a_job_uses_one_stream_and_few_other_requests(proxy: Any, through: Callable[..., Client]) -> None:
    client = through()
    job = client.submit("Steps", {"n": 60})

    assert client.wait(job.id, 20).status is Status.COMPLETED

    assert proxy.requests.count(f"GET /jobs/{job.id}/events") == 1
    assert len(proxy.requests) <= 8


def test_following_a_job_survives_broken_streams(client: Client, proxy: Any, through: Callable[..., Client]) -> None:
    proxy.plan_of_streams = [100, 1900, 0, NO_ROOM, 2200]
    job = client.submit("Steps", {"n": 200})

    updates = list(through().follow(job.id))

    assert_whole(updates, job)
    assert len(updates) > 200
    assert updates[-1].status is Status.COMPLETED
    assert proxy.requests.count(f"GET /jobs/{job.id}/events") >= 5
    assert proxy.last_ids


def test_every_change_arrives_once_in_spite_of_broken_streams(
    client: Client, proxy: Any, through: Callable[..., Client], until: Any
) -> None:
    proxy.plan_of_streams = [2000, 2500, 0, NO_ROOM, 2000, 300]
    listener = Listener(through().events(type="Steps"))
    until(lambda: client.submit("Steps", {"n": 1}).wait(10) and listener.got)

    jobs = [client.submit("Steps", {"n": 3}).wait(10) for _ in range(20)]
    until(lambda: any(change.job_id == jobs[-1].id and change.to_status == "completed" for change in listener.got))

    seqs = [change.seq for change in listener.got]
    assert len(seqs) == len(set(seqs))
    ids = {job.id for job in jobs}
    expected = sorted(change.seq for job in jobs for change in job.changes())
    assert sorted(change.seq for change in listener.got if change.job_id in ids) == expected
    assert len(proxy.last_ids) >= 2


def test_a_client_retries_a_refused_stream(proxy: Any, through: Callable[..., Client], until: Any) -> None:
    proxy.plan_of_streams = [NO_ROOM] * 2
    client = through()
    job = client.submit("Steps")
    listener = Listener(client.follow(job.id, log_after=None))

    until(lambda: proxy.requests.count(f"GET /jobs/{job.id}/events") == 3)
    job.stop(wait=5)
    listener.join()

    assert [update.to_status for update in listener.got if isinstance(update, Change)][-2:] == ["stopping", "stopped"]
