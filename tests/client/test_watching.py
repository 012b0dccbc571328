"""Waiting and following miss no change and repeat none, even if the server restarts."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import httpx
import pytest
from listening import Listener, assert_whole

from jobmanager import Client
from jobmanager.client import Change, Job, JobProgress, LogLine, Snapshot, protocol
from jobmanager.client.flows import Core
from jobmanager.client.following import JobTail
from jobmanager.client.protocol import FlowDriver
from jobmanager.client.sse import Event, Parser
from jobmanager.client.sync import StepExecutor
from jobmanager.core.states import Status


def test_waiting_ends_when_the_job_has_ended(client: Client) -> None:
    assert client.submit("Steps", {"n": 3}).wait(10).result == {"n": 3}
    failed = client.submit("Fails").wait(10)
    assert (failed.status, failed.error) == (Status.FAILED, "as it should")


def test_waiting_ends_with_an_error_after_its_timeout(client: Client) -> None:
    job = client.submit("Steps")
    begin = time.monotonic()

    with pytest.raises(TimeoutError, match="still running after"):
        job.wait(0.5)

    assert time.monotonic() - begin < 3


def test_following_yields_all_signs_until_the_job_ends(client: Client) -> None:
    job = client.submit("Steps", {"n": 50})

    updates = list(job.follow())

    assert_whole(updates, job)
    assert updates[-1].status is Status.COMPLETED
    assert [update.done for update in updates if isinstance(update, JobProgress)][-1] == 50
    assert len([update for update in updates if isinstance(update, LogLine)]) == 50


def test_following_a_job_that_has_ended_yields_its_progress_and_the_job(client: Client) -> None:
    job = client.submit("Steps", {"n": 2}).wait(10)

    updates = list(job.follow(log_after=None))

    assert [type(update) for update in updates] == [JobProgress, Job]


def test_following_ends_when_the_job_is_halted(client: Client, until: Any) -> None:
    job = client.submit("Steps")
    listener = Listener(job.follow())
    until(lambda: any(isinstance(update, LogLine) for update in listener.got))

    job.halt(wait=5)
    listener.join()

    assert_whole(listener.got, job)
    assert listener.got[-1].status is Status.HALTED


def test_a_halt_during_a_poll_is_part_of_its_result(service: Any, client: Client) -> None:
    job = client.submit("Steps").wait(statuses=["running"])
    core = Core(service.url, partial(protocol.validate, Snapshot), retry_seconds=5)
    tail = JobTail(core, job, seen=job.changes())
    driver = FlowDriver(tail.next())

    with httpx.Client(base_url=service.url) as http, StepExecutor(http, driver) as executor:
        driver.answer(executor.execute(driver.next()))  # opens the stream
        asked = [step := driver.next()]
        driver.answer(executor.execute(step))
        job.halt(wait=5)
        while (step := driver.next()) is not None:
            asked.append(step)
            driver.answer(executor.execute(step))

    assert asked[0].request.path.endswith(job.id), "the job is looked at first"
    assert asked[1].request.path.endswith("/changes")
    assert [update.to_status for update in driver.result if isinstance(update, Change)][-1] is Status.HALTED
    assert (tail.job.status, tail.is_caught_up) == (Status.HALTED, True)


def test_waiting_and_following_survive_a_restart_of_the_server(service: Any, client: Client, until: Any) -> None:
    job = client.submit("Steps", {"n": 150})
    waiting = Listener(job.wait(30) for _ in range(1))
    following = Listener(job.follow())
    until(lambda: len(following.got) > 5)

    service.end()
    time.sleep(0.3)
    service.start()
    waiting.join()
    following.join()

    assert waiting.got[0].status is Status.COMPLETED
    assert waiting.got[0].attempt == 2
    assert_whole(following.got, job)
    assert [update.action for update in following.got if isinstance(update, Change)][-3:] == [
        "release",
        "claim",
        "complete",
    ]


def test_events_yields_each_later_change_of_all_jobs_once(service: Any, client: Client, until: Any) -> None:
    old = client.submit("Steps").wait(statuses=["running"])
    second = int(time.time())  # the Date header has whole seconds
    until(lambda: int(time.time()) > second + 1)
    listener = Listener(client.events())
    until(lambda: client.submit("Steps", {"n": 1}).wait(10) and listener.got)

    old.halt(wait=5)
    old.resume(wait=5)
    old.stop(wait=5)
    until(lambda: any(change.to_status == "stopped" for change in listener.got))
    # Changes before and after a restart of the server.
    service.end()
    service.start()
    last = client.submit("Steps", {"n": 5}).wait(10)
    until(lambda: any(change.job_id == last.id and change.to_status == "completed" for change in listener.got))

    of_old = [change.action for change in listener.got if change.job_id == old.id]
    assert of_old == ["halt", "yield", "resume", "claim", "stop", "yield"]
    seqs = [change.seq for change in listener.got]
    assert len(seqs) == len(set(seqs))
    assert [change.seq for change in listener.got if change.job_id == last.id] == [c.seq for c in last.changes()]


def test_events_yields_only_changes_of_jobs_that_match_the_filter(client: Client, until: Any) -> None:
    listener = Listener(client.events(type="File", labels={"of": "us"}))

    def is_seen() -> bool:
        client.submit("File", {"size": 64}, labels={"of": "us"}).wait(10)
        client.submit("File", {"size": 64}).wait(10)
        client.submit("Steps", {"n": 1}, labels={"of": "us"}).wait(10)
        return len(listener.got) > 3

    until(is_seen)
    jobs = {job.id: job for job in client.list()}
    assert {(jobs[change.job_id].type, len(jobs[change.job_id].labels)) for change in listener.got} == {("File", 1)}


def test_following_a_removed_job_raises_an_error(service: Any, client: Client) -> None:
    job = client.submit("Steps", {"n": 1}).wait(10)
    service.manager.prune(keep=0)

    with pytest.raises(Exception, match="There is no job"):
        list(job.follow())


EVENTS = '\ufeffid: 1\nevent: change\ndata: {"a":\ndata: 1}\n\n: beat\n\n'
EVENTS += "id: é2\nretry: 5\ndata:x\n\ndata\n\nid: 3\n\nevent: e\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_are_parsed_however_the_stream_is_split(end: str, size: int) -> None:
    parser = Parser()
    stream = EVENTS.replace("\n", end).encode()

    events = [event for chunk in _cut(stream, size) for event in parser.feed(chunk)]

    assert events == [Event("change", '{"a":\n1}'), Event("message", "x"), Event("message", "")]
    assert parser.last_id == "3"
    parser.begin()
    assert parser.feed(b"data: y\n\n") == [Event("message", "y")]
    assert parser.last_id == "3"


def _cut(stream: bytes, size: int) -> list[bytes]:
    return [stream[begin : begin + size] for begin in range(0, len(stream), size)]
