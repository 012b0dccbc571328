"""An export on a volume that is really full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jobmanager.config import Settings
from jobmanager.jobs.export.job import Export
from jobmanager.jobs.export.output_file import NoSpace
from jobmanager.jobs.export.sample import make_sample
from jobmanager.registry import parse_args
from jobmanager.signals import Signals
from jobmanager.testing import trial

YEARS = {"from_date": "2023-01-01", "to_date": "2024-12-31"}
FORMATS = ("csv", "jsonl", "parquet")


class SmallExport(Export):
    """An export of small chunks."""

    chunk_rows: ClassVar[int] = 1000


class Keeper:
    """Saves every checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.signals = Signals()
        self.due = 0.0
        self.cursor: Any = None
        self._folder = folder

    def wait_for_request(self, seconds: float) -> bool:
        return self.signals.halt.wait(seconds)

    def folder(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def reach_checkpoint(self, job: Any) -> None:
        job.flush()
        self.cursor = job.cursor


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, 10_000)
    return Settings(data_dir=folder)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of its own, of one mebibyte."""
    path = tmp_path / "volume"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a volume: run the tests as root, as in a container")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def make(settings: Settings, keeper: Keeper, attempt: int, file_format: str) -> Export:
    args = parse_args(SmallExport, YEARS | {"format": file_format}, settings)
    log: Any = None
    return SmallExport(keeper, job_id="j", attempt=attempt, args=args, cursor=keeper.cursor, settings=settings, log=log)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_on_a_full_volume_keeps_what_it_has_and_goes_on_once_there_is_room(
    settings: Settings, volume: Path, file_format: str
) -> None:
    ballast = volume / "ballast"
    # Parquet takes less room from the first chunk on.
    ballast.write_bytes(b"\0" * ((900 if file_format == "parquet" else 700) << 10))
    keeper = Keeper(volume / "job")
    for attempt in (1, 2):
        with pytest.raises(NoSpace) as caught:
            make(settings, keeper, attempt, file_format).start()
    kept = keeper.cursor["rows"]
    subprocess.run(["mount", "-o", "remount,size=8m", str(volume)], check=True)
    ballast.unlink()

    result = make(settings, keeper, 3, file_format).start()

    whole = trial.run(SmallExport, YEARS | {"format": file_format}, settings=settings)
    assert str(caught.value) == "There is no space left on the volume of the job's files."
    assert 0 < kept < result["rows"] == 10_000
    assert isinstance(whole.result, dict)
    assert result["sha256"] == whole.result["sha256"]
    for attempt in (3, 4):
        make(settings, keeper, attempt, file_format).clean()
        assert list(volume.iterdir()) == []


def test_a_list_of_datasets_elsewhere_is_found(settings: Settings, tmp_path: Path) -> None:
    elsewhere = replace(settings, data_dir=tmp_path, database_url="", datasets=settings.data_dir / "datasets.toml")

    assert trial.run(Export, YEARS, settings=elsewhere).checkpoints[-1].done == 10_000
