"""What was synced survives a power cut, also on macOS, whose fsync leaves data in the cache of the drive."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from jobmanager.durable import sync_file, sync_folder
from jobmanager.store import Store


@pytest.mark.parametrize("is_supported", [True, False])
def test_a_sync_also_flushes_the_cache_of_the_drive_if_the_system_has_a_command_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_supported: bool
) -> None:
    commands: list[int] = []
    synced: list[int] = []

    def control(_descriptor: int, command: int) -> None:
        commands.append(command)
        if not is_supported:
            raise OSError("the file system does not support that")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "file").open("wb") as file:
        sync_file(file.fileno())
    sync_folder(tmp_path)

    assert commands == [51, 51]
    assert len(synced) == (0 if is_supported else 2)


def test_every_commit_flushes_the_cache_of_the_drive_too(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")

    with store.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA fullfsync").scalar() == 1

    store.close()
