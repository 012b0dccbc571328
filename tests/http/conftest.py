"""A client of the service on a real store, and the few things that a user of it does again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobmanager import JobManager, Settings
from jobmanager.http import create_app
from jobmanager.registry import Registry

#: How long a job may take to get where a test wants it, on a slow machine.
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """The service, as a client sees it."""

    http: FlaskClient

    def submit(self, job_type: str, args: dict[str, Any] | None = None) -> str:
        """Submit a job that has to be accepted; returns its id."""
        response = self.http.post("/submit", json={"Type": job_type, "args": args})
        assert response.status_code == 200, response.text
        return str(response.json["jobID"])

    def ask(self, verb: str, job_id: str) -> TestResponse:
        """Ask for a halt, a resume or a stop."""
        return self.http.post(f"/{verb}/{job_id}")

    def details(self, job_id: str) -> dict[str, Any]:
        """Return the details of the job."""
        response = self.http.get(f"/details/{job_id}")
        assert response.status_code == 200, response.text
        return dict(response.json["details"])

    def wait_until(self, job_id: str, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Return the job's details as soon as they are as a test wants them; fails after PATIENCE_SECONDS."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds(details := self.details(job_id)):
            assert time.monotonic() < deadline, f"never came: {details}"
            time.sleep(0.005)
        return details

    def wait_for(self, job_id: str, status: str) -> dict[str, Any]:
        """Return the job's details as soon as it has the status."""
        return self.wait_until(job_id, lambda details: details["status"] == status)

    def run(self, job_type: str, args: dict[str, Any] | None = None) -> str:
        """Submit a job and wait until it is completed; returns its id."""
        job_id = self.submit(job_type, args)
        self.wait_for(job_id, "Completed")
        return job_id


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A client of a service that stores jobs and runs none, shared by tests that do not care what others stored."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("quiet"), slots=0)
    with JobManager(settings, Registry()) as manager:
        client = create_app(manager).test_client()
        # Opens the connections that it keeps, before the first test is checked for what it leaves open.
        client.get(f"/details/{client.post('/submit', json={'Type': 'Simple'}).json['jobID']}")
        yield client


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "var", checkpoint_seconds=0.0)


@pytest.fixture
def types() -> Registry:
    return Registry()


@pytest.fixture
def rng() -> Callable[[], float]:
    """Return what spreads retries."""
    return random.random


@pytest.fixture
def manager(settings: Settings, types: Registry, rng: Callable[[], float]) -> Iterator[JobManager]:
    with JobManager(settings, types, rng=rng) as manager:
        yield manager


@pytest.fixture
def app(manager: JobManager) -> Flask:
    return create_app(manager)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def service(client: FlaskClient) -> Service:
    return Service(http=client)
