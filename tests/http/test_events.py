"""Streams tell what happens, as it happens: nothing is missed, nothing is told twice, and there is a bound on them."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobmanager import Job, JobManager, Settings
from jobmanager.core.states import Status
from jobmanager.core.values import News, Selection
from jobmanager.engine import change_feed
from jobmanager.errors import TooManyStreams
from jobmanager.http import create_app, event_stream
from jobmanager.registry import Registry
from jobmanager.store import Store

Told = dict[str, Any]


def parse(chunks: Iterable[bytes]) -> Iterator[Told]:
    """Yield what a stream tells, read as a browser does (HTML Living Standard §9.2.6), and comments too."""
    event, rest = Told(), ""
    for chunk in chunks:
        *lines, rest = (rest + chunk.decode()).split("\n")
        for line in lines:
            name, _, value = line.partition(":")
            if not line:
                if "data" in event:
                    event["data"] = json.loads(event["data"])
                yield event
                event = Told()
            else:
                event[name or "comment"] = value.removeprefix(" ")


class Follower:
    """A client that follows a stream, in a thread of its own."""

    def __init__(self, app: Flask, path: str, last_event_id: object = "") -> None:
        headers = {"Last-Event-ID": str(last_event_id)} if last_event_id != "" else {}
        self._end, there = socket.socketpair()
        # A client of its own: that of the test would close this answer with its next request.
        connection = {"gunicorn.socket": there}
        self.response = app.test_client().get(path, headers=headers, environ_overrides=connection)
        self._told: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, args=(there,), name="test-follower", daemon=True)
        self._thread.start()
        self.last_event_id = ""

    def _read(self, there: socket.socket) -> None:
        with there:
            for told in parse(self.response.response):
                self._told.put(told)
            self.response.close()
        self._told.put(None)

    def next(self) -> Told | None:
        """Return the next event; None at the end of the stream."""
        while True:
            told = self._told.get(timeout=10)
            if told is not None:
                self.last_event_id = told.get("id", self.last_event_id)
            if told is None or "data" in told:
                return told

    def take(self, number: int, name: str = "change") -> list[Any]:
        """Return the data of the next so many events of that name."""
        taken: list[Any] = []
        while len(taken) < number:
            told = self.next()
            assert told is not None, f"the stream has ended after {taken}"
            if told["event"] == name:
                taken.append(told["data"])
        return taken

    def rest(self) -> list[Told]:
        """Return everything up to the end of the stream."""
        return list(iter(self.next, None))

    def raw(self) -> Told:
        """Return the next thing told, an event or not."""
        told = self._told.get(timeout=10)
        assert told is not None
        return told

    def close(self) -> None:
        """Leave; the service finds out by itself."""
        self._end.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


Follow = Callable[..., Follower]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "LOOK_SECONDS", 0.02)


class Other(Job):
    """Does nothing."""

    def start(self) -> None:
        """Do it."""


@pytest.fixture
def types() -> Registry:
    registry = Registry()
    registry.register(Other)
    return registry


@pytest.fixture
def follow(app: Flask) -> Iterator[Follow]:
    """Return what opens streams; they are closed after the test."""
    followers: list[Follower] = []

    def follow(path: str = "/events", **more: Any) -> Follower:
        followers.append(Follower(app, path, **more))
        return followers[-1]

    yield follow
    for follower in followers:
        follower.close()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(data_dir=settings.data_dir, checkpoint_seconds=0.0, streams=3)


def submit(client: FlaskClient, **more: Any) -> str:
    """Submit a job that waits for its time."""
    body = {"type": "Simple", "run_at": "2100-01-01T00:00:00Z"} | more
    response = client.post("/jobs", json=body)
    assert response.status_code == 202, response.text
    return str(response.json["id"])


def changes(client: FlaskClient, job_id: str) -> list[Any]:
    return list(client.get(f"/jobs/{job_id}/changes").json["changes"])


def test_a_stream_tells_every_change_as_the_list_of_changes_shows_it(client: FlaskClient, follow: Follow) -> None:
    before = submit(client)
    follower = follow()

    job_id = submit(client)
    for action in ("halt", "resume", "stop"):
        client.post(f"/jobs/{job_id}/{action}")
    told = follower.take(4)

    assert follower.response.mimetype == "text/event-stream"
    assert follower.response.headers["Cache-Control"] == "no-store"
    assert told == changes(client, job_id)
    assert follower.last_event_id == str(told[-1]["seq"])
    assert changes(client, before)[0]["seq"] < told[0]["seq"]


def test_a_client_that_comes_back_misses_nothing_and_is_told_nothing_twice(client: FlaskClient, follow: Follow) -> None:
    first = follow()
    submit(client)
    seen = first.take(1)
    first.close()

    jobs = [submit(client) for _ in range(5)]
    second = follow(last_event_id=first.last_event_id)
    later = submit(client)
    told = second.take(6)

    assert [change["job_id"] for change in told] == [*jobs, later]
    assert [change["seq"] for change in seen + told] == list(range(1, 8))


def test_a_client_that_is_cut_off_before_the_first_event_misses_nothing_either(
    client: FlaskClient, follow: Follow
) -> None:
    submit(client)
    first = follow()
    greeting = [first.raw(), first.raw()]
    first.close()
    job_id = submit(client)

    (told,) = follow(f"/events?last_event_id={greeting[1]['id']}").take(1)

    assert greeting == [{"retry": "2000"}, {"id": "1"}]
    assert told["job_id"] == job_id


def test_an_id_that_the_store_has_not_reached_means_now(client: FlaskClient, follow: Follow) -> None:
    submit(client)
    follower = follow(last_event_id=10**17)

    job_id = submit(client)

    assert follower.take(1)[0]["job_id"] == job_id


def test_the_stream_of_a_job_begins_with_the_job_tells_its_whole_history_and_ends_with_it(
    client: FlaskClient, follow: Follow
) -> None:
    job_id = submit(client)
    client.post(f"/jobs/{job_id}/halt")
    follower = follow(f"/jobs/{job_id}/events")
    submit(client)
    first = follower.next()
    seen = follower.take(2)

    client.post(f"/jobs/{job_id}/stop")
    *told, last = follower.rest()

    assert (first["event"], first["data"]["status"]) == ("job", "halted")
    assert seen + [each["data"] for each in told] == changes(client, job_id)
    assert (last["event"], last["data"]["status"]) == ("job", "stopped")


def test_a_client_that_has_seen_the_end_of_a_job_is_told_not_to_come_back(client: FlaskClient, follow: Follow) -> None:
    job_id = submit(client)
    client.post(f"/jobs/{job_id}/stop")
    seen = follow(f"/jobs/{job_id}/events").rest()

    again = client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": seen[-2]["id"]})
    half = follow(f"/jobs/{job_id}/events", last_event_id=seen[1]["id"]).rest()

    assert [each["event"] for each in seen] == ["job", "change", "change", "job"]
    assert again.status_code == 204
    assert [each["event"] for each in half] == ["job", "change", "job"]


def test_progress_is_told_while_a_job_works_and_where_it_stood_when_it_ended(
    client: FlaskClient, follow: Follow, service: Any
) -> None:
    follower = follow("/events?type=Simple")
    job_id = client.post("/jobs", json={"type": "Simple", "args": {"steps": 1000, "seconds": 0.02}}).json["id"]
    first, second = follower.take(2, "progress")
    service.ask("halt", job_id)

    told: list[Told] = []
    while not told or told[-1]["data"].get("to_status") != "halted":
        told.append(follower.next() or {})
    last = [second, *(each["data"] for each in told if each["event"] == "progress")][-1]

    assert first.keys() == {
        *("job_id", "status", "done", "total", "message", "rate", "eta_seconds", "checkpoint_seq"),
    }
    assert (first["job_id"], first["total"], first["status"]) == (job_id, 1000, "running")
    assert first["done"] < second["done"] <= last["done"]
    assert first["eta_seconds"] > 0
    assert last["done"] == client.get(f"/jobs/{job_id}").json["progress"]["done"]
    service.ask("stop", job_id)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("type=Simple", [1, 3, 4]),
        ("type=Other", [2]),
        ("status=halted", [4]),
        ("status=halted&status=submitted&type=Simple", [1, 3, 4]),
        ("label=customer:acme", [1, 4]),
        ("label=customer:acme&label=kind:big", [1, 4]),
        ("label=customer:acme&status=submitted", [1]),
    ],
)
@pytest.mark.parametrize("when", ["as it happens", "afterwards"])
def test_what_filters_name_has_to_hold(
    client: FlaskClient, follow: Follow, query: str, wanted: list[int], when: str
) -> None:
    path, labels = f"/events?{query}", {"customer": "acme", "kind": "big"}
    follower = follow(path) if when == "as it happens" else None
    job_id = submit(client, labels=labels)
    submit(client, type="Other")
    submit(client, labels={"kind": "big"})
    client.post(f"/jobs/{job_id}/halt")
    follower = follower or follow(path, last_event_id=0)

    told = follower.take(len(wanted))
    client.post("/jobs/stop", json={"all": True})  # which tells of each job, but to none who asks for statuses
    is_last = "status" in query or follower.take(1)[0]["action"] == "stop"

    assert [change["seq"] for change in told] == wanted
    assert is_last


@pytest.mark.parametrize(
    ("path", "headers", "parameter"),
    [
        ("/events?status=idle", {}, "status"),
        ("/events?label=acme", {}, "label"),
        ("/events?limit=3", {}, "limit"),
        ("/events?type=A&type=B", {}, "type"),
        ("/events?last_event_id=-1", {}, "last_event_id"),
        ("/events", {"Last-Event-ID": "x"}, "last_event_id"),
        ("/events", {"Last-Event-ID": "²"}, "last_event_id"),
        ("/events", {"Last-Event-ID": "9" * 30}, "last_event_id"),
        ("/jobs/x/events?status=running", {}, "status"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    quiet: FlaskClient, path: str, headers: dict[str, str], parameter: str
) -> None:
    response = quiet.get(path, headers=headers)

    assert response.status_code == 422
    assert response.json["field"].split(".")[0] == parameter


def test_an_unknown_job_has_no_stream(quiet: FlaskClient) -> None:
    assert quiet.get("/jobs/0190f3a4-0000-7d8e-9fa0-b1c2d3e4f506/events").status_code == 404


def test_one_stream_more_than_there_may_be_is_told_when_to_come_back(client: FlaskClient, follow: Follow) -> None:
    job_id = submit(client)
    open_ones = [follow(), follow(), follow(f"/jobs/{job_id}/events")]

    refused = [client.get("/events"), client.get(f"/jobs/{job_id}/events")]
    open_ones[0].close()
    accepted = follow()

    for response in refused:
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert response.json["type"] == "urn:jobmanager:problem:too-many-streams"
    assert accepted.response.status_code == 200
    assert client.get(f"/jobs/{job_id}").status_code == 200


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_answer_that_nobody_reads_gives_its_place_back(client: FlaskClient, method: str) -> None:
    for _ in range(10):
        response = client.open("/events", method=method)
        assert response.status_code == 200
        response.close()


def test_something_is_sent_now_and_then_though_nothing_happens(
    client: FlaskClient, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.05)
    follower = follow("/events?type=Other")
    greeting = [follower.raw(), follower.raw()]

    first = follower.raw()
    submit(client)  # which this client does not ask for
    later = first
    while later["id"] == "0":
        later = follower.raw()

    assert greeting[1] == {"id": "0"}
    assert first == {"comment": "", "id": "0"}
    assert later == {"comment": "", "id": "1"}  # what was passed over need not be read again


def test_closing_the_manager_ends_every_stream(manager: JobManager, client: FlaskClient, follow: Follow) -> None:
    job_id = submit(client)
    followers = [follow(), follow(f"/jobs/{job_id}/events")]
    followers[1].take(1)

    manager.close()

    assert [follower.rest() for follower in followers] == [[], []]
    assert client.get("/events").status_code == 503


def test_the_beginning_of_a_shutdown_ends_every_stream_though_nothing_runs(
    manager: JobManager, client: FlaskClient, follow: Follow
) -> None:
    follower = follow()

    manager.begin_shutdown()

    assert follower.rest() == []


def test_nobody_reads_where_nobody_follows(
    manager: JobManager, client: FlaskClient, follow: Follow, until: Any
) -> None:
    def is_read() -> bool:
        return any(thread.name == "jobmanager-feed" for thread in threading.enumerate())

    before = is_read()
    follower = follow()
    during = is_read()
    follower.close()
    until(lambda: not is_read())
    again = follow()
    job_id = submit(client)

    assert (before, during) == (False, True)
    assert again.take(1)[0]["job_id"] == job_id


# Without HTTP: one change, many subscribers


def take(subscription: change_feed.Subscription, number: int) -> list[int]:
    """Return the numbers of the next changes."""
    taken: list[int] = []
    while len(taken) < number:
        taken += [told.change.seq for told in subscription.next_events(5) if isinstance(told, News)]
    return taken


def test_the_store_is_asked_once_for_all_who_follow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    news = Store.news
    monkeypatch.setattr(Store, "news", lambda *a, **k: asked.append("news") or news(*a, **k))
    with JobManager(Settings(data_dir=settings.data_dir, streams=100, slots=0), Registry()) as manager:
        subscriptions = [manager.follow() for _ in range(100)]
        asked.clear()
        for _ in range(20):
            manager.submit("Simple")
        told = [take(subscription, 20) for subscription in subscriptions]
        for subscription in subscriptions:
            subscription.close()

    assert told == [list(range(1, 21))] * 100
    assert len(asked) < 60  # a look or two for each change, and a few that nothing came of


def test_who_is_too_slow_for_what_waits_goes_on_from_the_store(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr(change_feed, "LONGEST_QUEUE", 10)
    with JobManager(Settings(data_dir=settings.data_dir, slots=0), Registry()) as manager:
        slow, quick = manager.follow(), manager.follow(Selection(statuses=frozenset({Status.SUBMITTED})))
        first = take(quick, len([manager.submit("Simple")]))
        for _ in range(50):
            manager.submit("Simple")
            first += take(quick, 1)
        was_behind = slow.is_behind
        found = take(slow, 51)
        manager.submit("Simple")
        found += take(slow, 1)
        is_behind = slow.is_behind
        slow.close()
        quick.close()

    assert (was_behind, is_behind) == (True, False)
    assert first == list(range(1, 52))
    assert found == list(range(1, 53))


def test_no_streams_at_all_can_be_set(settings: Settings) -> None:
    with JobManager(Settings(data_dir=settings.data_dir, streams=0), Registry()) as manager:
        with pytest.raises(TooManyStreams):
            manager.follow()

        assert create_app(manager).test_client().get("/events").status_code == 503
