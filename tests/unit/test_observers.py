"""Observers are told what happened, and their failures stay their own."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from jobmanager.core.values import Applied, JobRecord
from jobmanager.engine.observers import Observers
from jobmanager.observability.metrics import TimedStore


class Recorder:
    """Keeps the submissions that are reported to it."""

    def __init__(self) -> None:
        self.submitted: list[Mapping[str, int]] = []

    def jobs_submitted(self, of_types: Mapping[str, int]) -> None:
        self.submitted.append(of_types)

    def attempt_began(self, job: JobRecord) -> None:
        pass

    def attempt_ended(self, job_id: str, applied: Applied | None) -> None:
        pass

    def job_changed(self, applied: Applied) -> None:
        pass


class Broken(Recorder):
    """Fails at every call."""

    def jobs_submitted(self, of_types: Mapping[str, int]) -> None:
        raise OSError("no space")


def test_each_observer_is_told_though_another_fails(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()

    with caplog.at_level(logging.ERROR):
        Observers(Broken(), recorder).jobs_submitted({"Simple": 2})

    assert recorder.submitted == [{"Simple": 2}]
    assert "An observer failed." in caplog.text


class Answering:
    """Stands for a store."""

    def get(self, job_id: str) -> str:
        return f"job {job_id}"


def test_a_store_call_whose_duration_cannot_be_observed_returns_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("prometheus_client.Histogram.observe", refuse)

    assert TimedStore(Answering()).get("7") == "job 7"  # type: ignore[arg-type]
    assert "could not be observed" in caplog.text
