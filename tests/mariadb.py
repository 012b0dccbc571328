"""A MariaDB server for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.ports import free_port


@contextmanager
def running_server() -> Iterator[URL]:
    """Run a server in a folder of its own, and yield the URL of its database. Skips the test if it is not installed."""
    pytest.importorskip("pymysql", reason="PyMySQL is not installed: pip install -r requirements-dev.txt")
    program = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
    if program is None:
        pytest.skip("MariaDB is not installed: apt-get install mariadb-server")
    usr = Path(program).parents[1]
    with tempfile.TemporaryDirectory(prefix="mariadb-of-tests-", ignore_cleanup_errors=True) as name:
        folder, port, user = Path(name), free_port(), "nobody" if os.getuid() == 0 else None
        folder.chmod(0o777)
        options = [f"--basedir={usr}", f"--datadir={folder / 'data'}", f"--tmpdir={folder}"]
        subprocess.run(
            [usr / "bin/mariadb-install-db", "--no-defaults", *options, "--skip-test-db"],
            check=True,
            capture_output=True,
            user=user,
        )
        command = [
            *(program, "--no-defaults", *options, "--skip-grant-tables", "--skip-networking=0"),
            *("--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder / 'socket'}"),
            *(f"--lc-messages-dir={usr}/share/mysql", f"--character-sets-dir={usr}/share/mysql/charsets"),
            *("--default-time-zone=+05:00", "--innodb-flush-log-at-trx-commit=0"),
        ]
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, user=user) as server:
            try:
                _wait_for(server, port, folder / "log")
                yield URL.create("mysql+pymysql", username="root", host="127.0.0.1", port=port, database="trial")
            finally:
                server.terminate()


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server answers, and make the database."""
    import pymysql  # noqa: PLC0415 - an optional package

    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with closing(pymysql.connect(host="127.0.0.1", port=port, user="root")) as connection:
                connection.cursor().execute("CREATE DATABASE trial")
                return
        except pymysql.err.OperationalError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())
