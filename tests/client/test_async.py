"""Test every method of the async client once, on a real server."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from jobmanager import AsyncClient, Client
from jobmanager.client import AsyncJob, Change, Job, LogLine, Submission, Unreachable
from jobmanager.core.states import Status
from jobmanager.errors import NotAllowed, UnknownJob


def run(doing: Coroutine[Any, Any, None]) -> None:
    # In a new thread: the browser tests leave an event loop in this one.
    with ThreadPoolExecutor(1, thread_name_prefix="test") as pool:
        pool.submit(asyncio.run, asyncio.wait_for(doing, 30)).result()


@pytest.mark.parametrize(("sync", "asynchronous"), [(Client, AsyncClient), (Job, AsyncJob)])
def test_the_sync_and_the_async_client_have_the_same_methods(sync: type, asynchronous: type) -> None:
    def parameters(kind: type) -> dict[str, list[str]]:
        methods = {name: member for name, member in vars(kind).items() if inspect.isfunction(member)}
        return {
            name.replace("__a", "__"): [str(parameter) for parameter in inspect.signature(member).parameters.values()]
            for name, member in methods.items()
        }

    assert parameters(sync) == parameters(asynchronous)


def test_the_async_client_submits_controls_and_lists_jobs(service: Any) -> None:
    async def doing() -> None:
        async with AsyncClient(service.url) as client:
            job = await client.submit("Steps", labels={"of": "us"})
            await job.wait(statuses=["running"])
            assert (await job.halt(wait=5)).status is Status.HALTED
            assert (await job.resume(wait=5)).status is Status.RUNNING
            assert (await client.halt_all(type="Steps")).changed == 1
            await job.wait(10)
            assert (await client.resume_all(all=True, spread_seconds=1)).changed == 1
            assert (await client.stop_all(labels={"of": "us"})).changed == 1
            assert (await job.wait(10)).status is Status.STOPPED
            with pytest.raises(NotAllowed):
                await job.resume()
            with pytest.raises(UnknownJob):
                await client.get("nobody")
            ids = await client.submit_all([Submission(type="Steps", args={"n": 1})] * 2)
            assert {each.id async for each in client.list(limit=2)} == set(ids)
            assert "Steps" in [each.type for each in await client.job_types()]
            assert (await job.refresh()).etag == (await client.get(job.id)).etag
            assert [change.action for change in await job.changes()][-1] == "yield"

    run(doing())


def test_the_async_client_follows_a_job_and_reads_its_log(service: Any) -> None:
    async def doing() -> None:
        async with AsyncClient(service.url) as client:
            job = await client.submit("Steps", {"n": 30})
            updates = [update async for update in job.follow()]
            assert isinstance(updates[-1], AsyncJob)
            assert updates[-1].result == {"n": 30}
            lines = [update.message for update in updates if isinstance(update, LogLine)]
            assert lines == [line.message async for line in job.log()] == [f"step {n}" for n in range(30)]

    run(doing())


def test_many_coroutines_of_one_loop_wait_and_watch_at_once(service: Any) -> None:
    async def doing() -> None:
        async with AsyncClient(service.url) as client:
            jobs = [await client.submit("Steps", {"n": 20}) for _ in range(8)]
            ended = await asyncio.gather(*(job.wait(20) for job in jobs))
            assert {job.status for job in ended} == {Status.COMPLETED}

            async def submit() -> None:
                while True:
                    await client.submit("File", {"size": 64})
                    await asyncio.sleep(0.1)

            submitting = asyncio.create_task(submit())
            async with aclosing(client.events(type="File")) as events:  # type: ignore[type-var]
                assert isinstance(await anext(events), Change)
            submitting.cancel()

    run(doing())


def test_an_async_download_survives_broken_connections(service: Any, proxy: Any, tmp_path: Path) -> None:
    async def doing() -> None:
        async with AsyncClient(proxy.url) as client:
            job = await (await client.submit("File", {"size": 640_000})).wait(10)
            proxy.plan = [1 << 40, 300_000, 0]
            assert await job.download(tmp_path / "file") == tmp_path / "file"
            assert (tmp_path / "file").stat().st_size == 640_000

    run(doing())


def test_an_async_submission_with_a_lost_reply_makes_one_job(service: Any, proxy: Any) -> None:
    async def doing() -> None:
        proxy.plan = [0, 200]
        async with AsyncClient(proxy.url) as client:
            await client.submit("Steps", {"n": 1})
        with pytest.raises(Unreachable):
            await AsyncClient("http://127.0.0.1:9", retry_seconds=0).get("any")

    run(doing())

    assert service.jobs() == 1
    assert proxy.requests == ["POST /jobs"] * 3


def test_a_cancelled_coroutine_leaves_no_connection_open(service: Any) -> None:
    async def doing() -> None:
        async with AsyncClient(service.url) as client:
            job = await client.submit("Steps")
            waiting = asyncio.create_task(job.wait())
            await asyncio.sleep(0.3)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await job.stop(wait=5)).status is Status.STOPPED

    run(doing())
