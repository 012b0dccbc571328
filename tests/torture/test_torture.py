"""The kit that proves a job type can be halted finds out those that cannot, and says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import pytest
from pydantic import BaseModel

from jobmanager.config import Settings
from jobmanager.errors import InvalidRequest
from jobmanager.job import Job
from jobmanager.jobs import Export, Simple
from jobmanager.jobs.export.sample import make_sample
from jobmanager.testing.trial import torture

UNITS = 4


class Lines(Job):
    """Writes a line for each unit of work, as it should be done."""

    class Args(BaseModel):
        """Nothing to choose."""

    def start(self) -> dict[str, Any]:
        self.file = self.open_at_cursor()
        for unit in range(self.cursor or 0, UNITS):
            self.work(unit)
        self.file.close()
        return {"units": UNITS}

    def open_at_cursor(self) -> IO[str]:
        file = open(self.workdir / "lines", "a+")  # noqa: SIM115 - closed by halt() and at the end
        file.truncate((self.cursor or 0) * 2)
        return file

    def work(self, unit: int) -> None:
        self.file.write(f"{unit}\n")
        self.checkpoint(cursor=unit + 1)

    def flush(self) -> None:
        self.file.flush()

    def halt(self) -> None:
        self.file.close()

    def resume(self) -> None:
        self.file = self.open_at_cursor()


class ClaimsTooEarly(Lines):
    """Saves the cursor before its work."""

    def work(self, unit: int) -> None:
        self.checkpoint(cursor=unit + 1)
        self.file.write(f"{unit}\n")


class DoesNotCut(Lines):
    """Leaves in its file what came after the last checkpoint."""

    def open_at_cursor(self) -> IO[str]:
        return open(self.workdir / "lines", "a+")

    def work(self, unit: int) -> None:
        self.file.write(f"{unit}\n")
        self.file.flush()
        self.checkpoint(cursor=unit + 1)


class DoesNotFlush(Lines):
    """Claims what is still in a buffer."""

    def flush(self) -> None:
        pass

    def open_at_cursor(self) -> IO[str]:
        return open(self.workdir / "lines", "a+", buffering=65536)


class ForgetsToReopen(Lines):
    """Closes its file when it halts, and goes on without it."""

    def resume(self) -> None:
        """Do nothing."""


class StartsOver(Lines):
    """Pays no heed to its cursor, and appends."""

    def start(self) -> dict[str, Any]:
        self.file = open(self.workdir / "lines", "a+")  # noqa: SIM115 - closed at the end
        for unit in range(UNITS):
            self.work(unit)
        self.file.close()
        return {"units": UNITS}


class LeavesItsFolder(Lines):
    """Cleans nothing."""

    def clean(self) -> None:
        """Do nothing."""


class CleansOnce(Lines):
    """Cannot clean again after it has died in the middle."""

    def clean(self) -> None:
        (self.workdir / "lines").unlink()
        self.workdir.rmdir()


class Fails(Lines):
    """Fails by itself."""

    def work(self, unit: int) -> None:
        raise ValueError(f"no unit {unit}")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def test_a_job_that_is_written_well_is_sound(settings: Settings) -> None:
    verdict = torture(Lines, {}, settings=settings)

    assert verdict.is_sound(), str(verdict)
    assert verdict.checkpoints == UNITS
    assert "Sound." in str(verdict)


@pytest.mark.parametrize(
    ("job_type", "told"),
    [
        (
            ClaimsTooEarly,
            ["Killed right after the save at checkpoint 1", "its files differ", "work first, then checkpoint"],
        ),
        (DoesNotCut, ["Killed right before the save at checkpoint 1", "work is done twice", "truncate files"]),
        (DoesNotFlush, ["Killed right after the save at checkpoint 1", "work is lost", "sync in flush()"]),
        (ForgetsToReopen, ["Halted and resumed at checkpoint 1", "closed file", "resume() has to reopen"]),
        (StartsOver, ["Halted and restarted at checkpoint 1", "work is done twice", "from self.cursor alone"]),
        (LeavesItsFolder, ["Stopped at checkpoint 1", "its folder is left", "clean() has to remove"]),
        (CleansOnce, ["Stopped at checkpoint 1", "FileNotFoundError", "has to be repeatable"]),
        (Fails, ["Undisturbed, it fails: ValueError: no unit 0 (test_torture.py, line "]),
    ],
)
def test_a_job_that_is_wrong_is_found_out_and_its_author_is_told_what_to_mend(
    job_type: type[Job], told: list[str], settings: Settings
) -> None:
    verdict = torture(job_type, {}, settings=settings)

    assert not verdict.is_sound()
    assert all(part in str(verdict) for part in told), str(verdict)


def test_what_a_job_does_elsewhere_can_be_observed(settings: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"

    class Touches(Lines):
        def work(self, unit: int) -> None:
            elsewhere.touch()
            super().work(unit)

    verdict = torture(Touches, {}, settings=settings, observe=elsewhere.exists)

    assert "its effects outside its folder are left" in str(verdict)


def test_simple_can_be_halted_killed_and_stopped_anywhere(settings: Settings) -> None:
    verdict = torture(Simple, {"steps": 5, "seconds": 0.001}, settings=settings)

    assert verdict.is_sound(), str(verdict)


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_an_export_can_be_halted_killed_and_stopped_anywhere(file_format: str, settings: Settings) -> None:
    make_sample(settings.data_dir, rows=1000)
    # Once here, not in each of a hundred processes that are forked.
    import_module("jobmanager.jobs.export.readers.opening")
    import_module("jobmanager.jobs.export.readers.sqlite_process")

    class SmallChunks(Export):
        chunk_rows = 150

    args = {"from_date": "2023-01-01", "to_date": "2024-12-31", "format": file_format}
    verdict = torture(SmallChunks, args, settings=settings)

    assert verdict.is_sound(), str(verdict)
    assert verdict.checkpoints >= 7


def test_wrong_arguments_are_refused_at_once(settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match="steps"):
        torture(Simple, {"steps": "many"}, settings=settings)


def test_the_command_prints_the_verdict(tmp_path: Path) -> None:
    env = {"JOBMANAGER_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "jobmanager", "torture", "Simple", "--arg", "steps=3", "--arg", "seconds=0"]

    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    assert run.returncode == 0, run.stderr
    assert "Simple: 3 checkpoints" in run.stdout
