"""Counts are shared by files whose space is allocated first; without space they are kept until there is some."""

from __future__ import annotations

import errno
import os
from importlib.metadata import version
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from jobmanager.observability.counts import SharedCounts, incomplete_processes


def key(number: int) -> str:
    """Return the key of a count, of some hundred bytes."""
    return mmap_key("requests", "requests", ["name"], [f"{number:0100}"], "How many there were.")


def shared(path: Path) -> dict[str, float]:
    """Return the counts that another process reads."""
    return {key: value for key, value, *_ in MmapedDict.read_all_values_from_file(str(path))}


def refuse_space(*_: int) -> None:
    """Take the place of os.write on a full volume."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_prometheus_client_is_the_version_whose_inside_is_known() -> None:
    assert version("prometheus-client") == "0.26.0"


def test_a_file_has_its_space_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    counts = SharedCounts(str(path))
    first = path.stat()

    for number in range(1000):
        counts.write_value(key(number), 1.0, 0.0)
    grown = path.stat()
    counts.close()

    assert 0 < first.st_size <= first.st_blocks * 512
    assert first.st_size < grown.st_size <= grown.st_blocks * 512
    assert shared(path) == {key(number): 1.0 for number in range(1000)}
    assert incomplete_processes(tmp_path) == 0


def test_counts_that_do_not_fit_are_kept_and_shared_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "counter_1.db"
    counts = SharedCounts(str(path))

    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse_space)
        for number in range(1000):
            counts.write_value(key(number), 1.0, 0.0)
        during, incomplete = shared(path), incomplete_processes(tmp_path)
        kept = counts.read_value(key(999))
    counts.write_value(key(0), 2.0, 0.0)

    assert 0 < len(during) < 1000
    assert (incomplete, kept) == (1, (1.0, 0.0))
    assert shared(path) == {key(0): 2.0} | {key(number): 1.0 for number in range(1, 1000)}
    assert incomplete_processes(tmp_path) == 0
    assert len(caplog.records) == 1
    counts.close()


def test_a_process_that_begins_without_space_leaves_no_file_that_others_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gauge_livesum_7.db"

    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse_space)
        counts = SharedCounts(str(path))
        counts.write_value(key(1), 3.0, 0.0)
        during, incomplete = list(tmp_path.glob("*.db")), incomplete_processes(tmp_path)
    counts.write_value(key(1), 4.0, 0.0)

    assert (during, incomplete) == ([], 1)
    assert shared(path) == {key(1): 4.0}
    assert incomplete_processes(tmp_path) == 0
    counts.close()
