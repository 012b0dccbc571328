"""Run the command against a real server."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobmanager.cli import main

ROOT = Path(__file__).parents[2]

# Load the server of the client's tests under another module name: each folder has a conftest.
_spec = importlib.util.spec_from_file_location("client_conftest", ROOT / "tests" / "client" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_client_conftest = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_client_conftest)
Service = _client_conftest.Service


@dataclass(frozen=True)
class Told:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        """Return the printed JSON values, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Any]:
    service = Service(tmp_path / "var")
    service.start()
    yield service
    service.end()


@pytest.fixture
def call(service: Any) -> Callable[..., Told]:
    """Return a function that runs a command in this process."""

    def called(*arguments: str) -> Told:
        result = CliRunner().invoke(main, list(arguments), env={"JOBMANAGER_URL": service.url})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Told(result.exit_code, result.stdout, result.stderr)

    return called


def environment(**more: str) -> dict[str, str]:
    """Return the environment for a command in a new process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOBMANAGER_", "GUNICORN"))}
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"} | more


@pytest.fixture
def start(service: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a command in a new process, outside of the repository."""
    started: list[subprocess.Popen[bytes]] = []

    def starts(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobmanager", *arguments]
        told = environment(JOBMANAGER_URL=service.url, **(env or {}))
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=tmp_path, env=told, **(pipes | options))
        started.append(process)
        return process

    yield starts
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
