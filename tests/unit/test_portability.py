"""The service also runs where a system lacks what only Linux has, and promises the same there."""

from __future__ import annotations

import importlib.util
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import inotify_simple
import pytest

from jobmanager.core.values import NewJob
from jobmanager.engine.wakeup import Alarm
from jobmanager.jobs.export.output_file import Part
from jobmanager.store import Store

ROOT = Path(__file__).parents[2]
LIKE_MACOS = ROOT / "tests" / "like_macos"


def fresh(name: str) -> ModuleType:
    """Return a module as a process imports it now, not as it was imported before."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(program: str, folder: Path, path: str) -> str:
    """Run a program in a process with this PYTHONPATH, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=folder,
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_jobs_are_halted_resumed_and_completed_without_any_feature_of_linux(tmp_path: Path) -> None:
    shown = run(
        """
        import os, select
        from jobmanager import JobManager, Settings

        assert not [name for name in ("eventfd", "memfd_create", "posix_fadvise") if hasattr(os, name)]
        assert not hasattr(select, "POLLRDHUP") and not os.path.exists("/proc/self")
        with JobManager(Settings(data_dir="data", checkpoint_seconds=0)) as manager:
            job = manager.submit("Simple", {"steps": 50, "seconds": 0.01})
            manager.wait(job.id, unless=("submitted",), wait=30)
            manager.halt(job.id)
            print(manager.wait(job.id, unless=("running", "halting"), wait=30).status)
            manager.resume(job.id)
            ended = manager.wait(job.id, unless=("submitted", "running", "halted"), wait=30)
            print(ended.status, ended.checkpoint.done)
        """,
        tmp_path,
        f"{LIKE_MACOS}:{ROOT}",
    )

    assert shown.splitlines() == ["halted", "completed 50"]


def test_exports_are_the_same_files_without_any_feature_of_linux(tmp_path: Path) -> None:
    program = """
        from pathlib import Path
        from jobmanager import JobManager, Settings
        from jobmanager.jobs.export.sample import make_sample

        make_sample(Path("data"), rows=20_000)
        with JobManager(Settings(data_dir="data")) as manager:
            args = {"from_date": "2023-01-01", "to_date": "2024-12-31"}
            jobs = [manager.submit("Export", args | {"format": name}) for name in ("csv", "jsonl", "parquet")]
            for job in jobs:
                ended = manager.wait(job.id, unless=("submitted", "running"), wait=50)
                print(ended.status, ended.result["rows"], ended.result["sha256"])
        """
    folders = [tmp_path / "linux", tmp_path / "macos"]
    for folder in folders:
        folder.mkdir()

    on_linux = run(program, folders[0], str(ROOT))

    assert run(program, folders[1], f"{LIKE_MACOS}:{ROOT}") == on_linux
    assert [line.split()[:2] for line in on_linux.splitlines()] == [["completed", "20000"]] * 3


def test_an_alarm_wakes_its_thread_once_however_many_threads_set_it() -> None:
    alarm = Alarm()
    threads = [threading.Thread(target=alarm.set) for _ in range(20)]

    for thread in threads:
        thread.start()
    alarm.wait(60, None)
    for thread in threads:
        thread.join()

    assert alarm.take()
    assert not alarm.take()
    alarm.wait(0.01, None)
    alarm.set()
    assert not alarm.wait(60, None)
    assert alarm.take()


@pytest.mark.parametrize("is_installed", [True, False])
def test_commits_of_other_processes_are_noticed_without_inotify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    def refuse(**_: Any) -> None:
        raise AttributeError("the C library has no inotify_init1")

    if is_installed:
        monkeypatch.setattr(inotify_simple, "INotify", refuse)
    else:
        monkeypatch.setitem(sys.modules, "inotify_simple", None)
    store, other = (Store(f"sqlite:///{tmp_path}/jobs.db") for _ in range(2))
    module = fresh("jobmanager.store.sqlite.watch")

    with closing(module.Watch(store.database.engine, store.database.writer.lock_path)) as watch:
        watch.has_moved()
        before = watch.has_moved()
        other.add([NewJob(id="1", type="Simple", args={})], actor="test")

        assert (before, watch.has_moved(), watch.has_moved()) == (False, True, False)
        assert watch.fileno() is None
    store.close()
    other.close()


@pytest.fixture(params=[True, False], ids=["POLLRDHUP", "no POLLRDHUP"])
def client_connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module that sends streams, with and without an event of poll that only Linux has."""
    if not request.param:
        monkeypatch.delattr(select, "POLLRDHUP")
    return fresh("jobmanager.http.client_connection")


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return both ends of a connection: the server's and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as theirs:
        ours, _ = listener.accept()
        with ours:
            yield ours, theirs


def pieces(module: ModuleType, ours: socket.socket, chunks: Any, is_over: Callable[[], bool] = bool) -> Iterator[bytes]:
    """Return the pieces that a stream sends."""
    sent: Iterator[bytes] = module.ClientConnection({"gunicorn.socket": ours}).send_when_writable(
        chunks, is_over=is_over
    )
    return sent


def test_a_stream_ends_once_its_client_has_left(client_connection: ModuleType, sockets: Any) -> None:
    ours, theirs = sockets
    deadline = time.monotonic() + 15

    def chunks() -> Iterator[bytes]:
        yield b"first"
        theirs.close()
        while time.monotonic() < deadline:
            yield b""

    assert list(pieces(client_connection, ours, chunks())) == [b"first"]
    assert time.monotonic() < deadline


def test_a_stream_goes_on_if_its_client_sends_another_request(client_connection: ModuleType, sockets: Any) -> None:
    ours, theirs = sockets
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    select.select([ours], [], [], 15)

    assert list(pieces(client_connection, ours, [b"a", b"b"])) == [b"a", b"b"]
    assert ours.recv(100) == b"GET / HTTP/1.1\r\n\r\n"


def test_a_stream_ends_if_its_client_leaves_without_reading(
    client_connection: ModuleType, sockets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = sockets
    monkeypatch.setattr(client_connection, "READ_SECONDS", 3600.0)
    ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))

    def leave() -> bool:
        theirs.shutdown(socket.SHUT_WR)
        return False

    assert list(pieces(client_connection, ours, [b"more"], is_over=leave)) == []


def test_a_part_is_the_same_if_the_system_cannot_be_asked_to_write_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    data = os.urandom(9_000_000)

    with closing(Part.create(tmp_path / "part")) as part:
        part.write(data[:5_000_000])
        part.write(data[5_000_000:])
        part.sync()

    assert (tmp_path / "part").read_bytes() == data
