"""What the tests with real gunicorn processes share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gunicorn_server import Server


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


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """Return a server that runs, with two workers."""
    return make_server(workers=2, MAX_CRASHES=1000).start()


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server_of_any_size(request: pytest.FixtureRequest, make_server: Callable[..., Server]) -> Server:
    """Return a server that runs, with one worker and with two."""
    return make_server(workers=request.param, MAX_CRASHES=1000).start()
