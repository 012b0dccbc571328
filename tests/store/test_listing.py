"""Lists of jobs show exactly those that are meant, the newest first, page by page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Checkpoint, JobRecord, Position, Selection
from jobmanager.store import sampling, search

TYPES = ("Export", "Import", "Simple")


@pytest.fixture
def ids(store: Any) -> list[str]:
    """Submit twelve jobs, one after the other; returns their ids, the newest first."""
    made = []
    for number in range(12):
        job_id = f"0190f3a4-5b{number:02}-7d8e-9fa0-000000000000"
        labels = {"customer": f"c{number % 3}"} | ({"urgent": "yes"} if number % 4 == 0 else {})
        store.put(job_id, type=TYPES[number % 3], labels=labels)
        made.append(job_id)
    return made[::-1]


def found(store: Any, limit: int = 100, **given: Any) -> list[str]:
    """Return the ids of the jobs that are meant."""
    return [job.id for job in every(store, Selection(**given), limit)]


def every(store: Any, selection: Selection, limit: int) -> Iterator[JobRecord]:
    before: Position | None = None
    while True:
        page = store.find(selection, TYPES, before=before, limit=limit)
        assert len(page.jobs) <= limit
        yield from page.jobs
        if page.next is None:
            return
        assert len(page.jobs) == limit
        before = page.next


@pytest.mark.parametrize("limit", [1, 2, 5, 12, 100])
def test_pages_of_any_size_show_each_job_once_the_newest_first(store: Any, ids: list[str], limit: int) -> None:
    assert found(store, limit) == ids
    assert found(store, limit, statuses=frozenset(Status)) == ids
    assert found(store, limit, labels={"customer": "c1"}) == ids[1::3]
    assert found(store, limit, q="port") == [job_id for number, job_id in enumerate(ids) if number % 3 != 0]


def test_jobs_that_are_submitted_meanwhile_do_not_move_the_pages(store: Any, ids: list[str]) -> None:
    first = store.find(Selection(), TYPES, limit=5)
    store.put("newer")
    second = store.find(Selection(), TYPES, before=first.next, limit=100)

    assert [job.id for job in first.jobs + second.jobs] == ids


def test_a_batch_of_one_instant_is_paged_without_a_gap(store: Any) -> None:
    batch = [f"job-{number}" for number in range(7)]
    store.put(*batch)

    assert found(store, 2) == batch[::-1]


def test_a_list_is_filtered_by_status_and_type(store: Any, ids: list[str]) -> None:
    store.apply(ids[3], Action.HALT)
    store.apply(ids[4], Action.STOP)

    assert found(store, statuses={Status.HALTED}) == [ids[3]]
    assert found(store, statuses={Status.HALTED, Status.STOPPED}) == ids[3:5]
    assert found(store, statuses={Status.RUNNING}) == []
    assert found(store, type="Simple") == ids[0::3]
    assert found(store, type="Simple", statuses={Status.HALTED}) == [ids[3]]
    assert found(store, type="Nothing") == []


def test_a_list_is_filtered_by_labels_all_of_which_have_to_hold(store: Any, ids: list[str]) -> None:
    assert found(store, labels={"urgent": "yes"}) == ids[3::4]
    assert found(store, labels={"urgent": "yes", "customer": "c2"}) == [ids[3]]
    assert found(store, labels={"urgent": "no"}) == []
    assert found(store, labels={"urgent": "yes"}, type="Simple") == [ids[3]]


def test_a_list_is_filtered_by_time_from_the_first_instant_up_to_the_second(store: Any, ids: list[str]) -> None:
    third, fifth = store.get(ids[2]).submitted_at, store.get(ids[4]).submitted_at

    assert found(store, submitted_after=fifth, submitted_before=third) == ids[3:5]
    assert found(store, submitted_before=fifth - timedelta(days=1)) == []


def test_a_search_finds_the_beginning_of_an_id_a_part_of_a_type_and_a_label_as_a_whole(
    store: Any, ids: list[str]
) -> None:
    assert found(store, q=ids[5]) == [ids[5]]
    assert found(store, q=ids[5][:14]) == [ids[5]]
    assert found(store, q="EXP") == ids[2::3]
    assert found(store, q="c0") == ids[2::3]
    assert found(store, q="c") == []
    assert found(store, q="c0", statuses={Status.HALTED}) == []
    assert found(store, q="%") == []


#: Selections that several indexes would serve.
SEVERAL_WAYS: list[dict[str, Any]] = [
    {"statuses": {"submitted"}, "labels": {"customer": "c0"}},
    {"statuses": {"halted"}, "labels": {"customer": "c2"}},
    {"statuses": {"halted", "stopped"}, "labels": {"customer": "c1"}},
    {"statuses": {"halted", "stopped"}, "labels": {"urgent": "yes", "customer": "c2"}},
    {"type": "Export", "labels": {"urgent": "yes"}},
    {"type": "Export", "statuses": {"submitted", "halted"}, "labels": {"urgent": "yes"}},
    {"type": "Export", "types": {"Simple"}},
    {"type": "Export", "types": {"Simple"}, "labels": {"urgent": "yes"}},
    {"type": "Export", "types": {"Simple", "Export"}, "labels": {"urgent": "yes"}},
    {"types": {"Simple", "Export"}, "labels": {"customer": "c0", "urgent": "yes"}},
    {"types": {"Simple", "Export"}, "statuses": {"submitted"}, "labels": {"customer": "c0"}},
    {"types": set(), "labels": {"customer": "c0"}},
    {"types": set()},
    {"q": "yes", "statuses": {"halted"}},
    {"q": "c2", "statuses": {"submitted"}, "labels": {"urgent": "yes"}},
    {"q": "mpl", "statuses": {"submitted"}},
    {"q": "mpl", "type": "Simple"},
    {"q": "0190f3a4-5b06", "type": "Export"},
    {"q": "0190f3a4-5b06", "statuses": {"halted"}},
    {"q": "c1", "types": {"Import"}, "labels": {"customer": "c1"}},
]


@pytest.mark.parametrize("sample", [1, 3, 500])
@pytest.mark.parametrize("is_bounded", [False, True])
def test_whichever_index_a_list_is_read_by_it_shows_the_same(
    store: Any, ids: list[str], monkeypatch: pytest.MonkeyPatch, sample: int, is_bounded: bool
) -> None:
    monkeypatch.setattr(sampling, "SAMPLE", sample)
    store.apply(ids[3], Action.HALT)
    store.apply(ids[4], Action.STOP)
    jobs = [store.get(job_id) for job_id in ids]
    times = {"submitted_after": jobs[8].submitted_at, "submitted_before": jobs[2].submitted_at} if is_bounded else {}

    for given in SEVERAL_WAYS:
        meant = [job.id for job in (jobs[3:9] if is_bounded else jobs) if is_meant(job, **given)]
        assert found(store, 2, **given, **times) == meant, given


def is_meant(
    job: JobRecord,
    *,
    statuses: Collection[str] = (),
    type: str | None = None,  # noqa: A002 - the name it has everywhere
    types: Collection[str] | None = None,
    labels: Mapping[str, str] = MappingProxyType({}),
    q: str | None = None,
) -> bool:
    """Tell what the store should, in the plainest way."""
    is_found = q is None or q in job.labels.values() or q in job.type or job.id.startswith(q)
    is_of_type = type in (None, job.type) and (types is None or job.type in types)
    return is_found and is_of_type and (not statuses or job.status in statuses) and labels.items() <= job.labels.items()


@pytest.mark.parametrize("labels", [{"many": "a", "few": "b"}, {"few": "b", "many": "a"}])
def test_of_several_indexes_the_one_with_the_fewest_entries_is_read(
    store: Any, monkeypatch: pytest.MonkeyPatch, labels: dict[str, str]
) -> None:
    monkeypatch.setattr(sampling, "SAMPLE", 3)
    store.put(*map(str, range(9)), labels={"many": "a"})
    store.put("both", labels=labels)
    store.put("halted", labels={"many": "a"})
    store.apply("halted", Action.HALT)

    def read(**given: Any) -> str:
        """Return the condition by which jobs are found."""
        selection = Selection(**given)
        (stream,) = sampling.choose(store.reader, search.ways(selection, TYPES), selection, None)
        return str(stream.driver.compile(compile_kwargs={"literal_binds": True}))

    assert read(labels=labels) == "labels.name = 'few' AND labels.value = 'b'"
    assert read(labels={"many": "a"}, statuses=frozenset({Status.HALTED})) == "jobs.status = 'halted'"
    assert (
        read(labels={"few": "b"}, statuses=frozenset({Status.SUBMITTED}))
        == "labels.name = 'few' AND labels.value = 'b'"
    )
    assert read(q="a", statuses=frozenset({Status.HALTED})) == "jobs.status = 'halted'"


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_postgresql_looks_up_what_an_index_does_not_say_for_each_entry_by_itself(store: Any) -> None:
    rare = Selection(labels={"region": "asia"}, statuses=frozenset({Status.HALTED}))

    for way in search.ways(rare, ["T"]):
        query = search.page(way, rare, before=None, limit=10)
        words = query.compile(dialect=store.database.engine.dialect, compile_kwargs={"literal_binds": True})
        plan = "\n".join(line for (line,) in store.execute(f"EXPLAIN {words}"))
        assert "SubPlan" in plan
        assert "Merge" not in plan
        assert "Hash Join" not in plan


def test_what_was_removed_is_in_no_list(store: Any, ids: list[str]) -> None:
    store.apply(ids[0], Action.STOP)

    store.prune(before=store.now() + timedelta(days=1), keep=None)

    assert found(store) == ids[1:]
    assert found(store, q="c2") == [job_id for job_id in ids[1:] if store.get(job_id).labels["customer"] == "c2"]


def test_several_jobs_are_asked_in_one_commit_and_each_is_told_of(store: Any) -> None:
    store.put("waits")
    running = store.bring("runs", Status.RUNNING)
    store.bring("done", Status.COMPLETED)
    store.bring("halted", Status.HALTED)

    came = store.apply_to_each(
        dict.fromkeys(["waits", "runs", "done", "halted", "gone"]), Action.HALT, statuses=(), actor="ann", reason="why"
    )

    assert store.get("waits").status is Status.HALTED
    assert store.get("runs").status is Status.HALTING
    assert str(came["done"]) == "A job that is completed cannot be asked to halt (it is final)."
    assert came["halted"].change is None
    assert came["gone"] is None
    (*_, change) = store.changes("runs")
    assert (change.actor, change.reason, change.attempt) == ("ann", "why", running.attempt)


def test_a_job_that_has_left_the_status_that_was_meant_is_left_alone(store: Any) -> None:
    store.bring("failed", Status.FAILED)
    store.apply("failed", Action.RESUME)

    came = store.apply_to_each({"failed": None}, Action.STOP, statuses={Status.FAILED}, actor="ann")

    assert came == {"failed": None}
    assert store.get("failed").status is Status.SUBMITTED


@pytest.mark.parametrize("limit", [1, 5, 12])
def test_the_ids_of_a_selection_are_those_of_its_jobs(store: Any, ids: list[str], limit: int) -> None:
    for given in ({}, {"labels": {"customer": "c0"}}, {"q": "port"}, {"statuses": {Status.HALTED}}):
        selection = Selection(**given)
        read: list[str] = []
        before: Position | None = None
        while True:
            some, before = store.find_ids(selection, TYPES, before=before, limit=limit)
            read += some
            if before is None:
                break

        assert read == found(store, **given)


def test_of_many_labels_three_are_looked_for_and_the_others_are_conditions(store: Any) -> None:
    labels = {f"l{number}": "x" for number in range(32)}
    store.put("all", labels=labels)
    store.put("all but the last", labels=labels | {"l31": "y"})

    assert len(search.ways(Selection(labels=labels), TYPES)) == 3
    assert found(store, labels=labels) == ["all"]
    assert found(store, labels=labels, q="x", statuses={Status.SUBMITTED, Status.HALTED}) == ["all"]


def test_a_list_leaves_out_what_is_large_and_names_it(store: Any) -> None:
    fits, exceeds = ({"note": "\u00e9" * ((size - len('{"note":""}')) // 2)} for size in (4096, 4098))
    store.run("large", args=exceeds)
    store.checkpoint("large", 1, Checkpoint(cursor="x" * 5000), {"told": "x" * 5000})
    store.settle("large", 1, Settlement(action=Action.COMPLETE, failures=0, result=["x" * 5000]))
    store.put("small", args=fits)

    small, large = store.find(Selection(), TYPES).jobs

    assert (small.args, small.shortened) == (fits, ())
    assert (large.args, large.details, large.result) == ({}, {}, None)
    assert large.shortened == ("args", "details", "result")
    whole = store.get("large")
    assert (whole.args, whole.details, whole.result) == (exceeds, {"told": "x" * 5000}, ["x" * 5000])
    assert (whole.shortened, whole.checkpoint.cursor) == ((), "x" * 5000)


def test_jobs_that_are_asked_together_are_returned_without_what_is_large_and_keep_it(store: Any) -> None:
    store.put("waits", args={"note": "x"})

    came = store.apply_to_each({"waits": None}, Action.HALT, statuses=(), actor="ann")

    assert (came["waits"].job.status, came["waits"].job.args) == (Status.HALTED, {})
    assert store.get("waits").args == {"note": "x"}
