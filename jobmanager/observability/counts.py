"""Files in which the workers of a server share their metrics. Allocates disk space before it is used.

prometheus_client grows these files with truncate, which allocates no space, and later writes to them through mmap. If
the volume is full by that time (Docker gives /dev/shm 64 MiB), the write ends the process with SIGBUS.
This module depends on internals of prometheus_client's MmapedDict; tests/unit/test_counts.py pins its version.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import _INITIAL_MMAP_SIZE, MmapedDict

#: Bytes that a new value adds to the file in addition to its key: a length, padding, and two doubles.
_OVERHEAD_BYTES = 4 + 8 + 16
#: Suffix of an empty marker file. It exists if some counts of a process did not fit into the file of counts.
_MISSING = ".missing"

_log = logging.getLogger(__name__)


class SharedCounts(MmapedDict):
    """The file of counts of one process. If there is no space for a count, keeps it in memory and tries again later.

    Not thread-safe: prometheus_client holds its lock around every call.
    """

    def __init__(self, filename: str) -> None:
        """Open the file, or create it; does not raise if that fails."""
        self._path = Path(filename)
        self._f: Any = None
        self._m: Any = None
        self._positions: dict[str, int] = {}
        #: counts that are not in the file yet
        self._waiting: dict[str, tuple[float, float]] = {}
        self._is_missing = False
        try:
            self._open()
        except OSError as error:
            self._say_missing(error)

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a count and its timestamp; both are 0 for a new count."""
        if key not in self._positions:
            self.write_value(key, *self._waiting.get(key, (0.0, 0.0)))
        if key not in self._positions:
            return self._waiting[key]
        value, timestamp = super().read_value(key)  # type: ignore[no-untyped-call]
        return value, timestamp

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a count: in the file, or in memory while the file has no space."""
        if self._waiting or key not in self._positions:
            self._waiting[key] = value, timestamp
            self._write_waiting()
        else:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def _write_waiting(self) -> None:
        try:
            for key, (value, timestamp) in list(self._waiting.items()):
                super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
                del self._waiting[key]
        except OSError as error:
            self._say_missing(error)
            return
        if self._is_missing:
            self._is_missing = False
            self._path.with_suffix(_MISSING).unlink(missing_ok=True)

    def _init_value(self, key: str) -> None:
        """Add a count to the file. If there is no space, raise OSError, and leave the counts in the file unchanged."""
        if self._m is None:
            self._open()
        before = self._capacity
        try:
            if self._used + len(key.encode()) + _OVERHEAD_BYTES > before:
                # Allocate the space first. The truncate in super() then has nothing left to extend.
                _grow(self._f.fileno(), 2 * before)
            super()._init_value(key)  # type: ignore[no-untyped-call]
        except OSError:
            self._capacity = before
            raise

    def _open(self) -> None:
        if not self._path.exists():
            self._create()
        super().__init__(str(self._path))  # type: ignore[no-untyped-call]

    def _create(self) -> None:
        """Create the file under another name, and rename it when its first block is written.

        A file without its first block would break every scrape.
        """
        new = self._path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                _grow(file.fileno(), _INITIAL_MMAP_SIZE)
            new.rename(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise

    def _say_missing(self, error: OSError) -> None:
        if self._is_missing:
            return
        self._is_missing = True
        _log.error("Counts are missing from /metrics: %s cannot be written: %s.", self._path, error.strerror)
        with contextlib.suppress(OSError):  # no space for the marker either; the log has the error
            self._path.with_suffix(_MISSING).touch()


def _grow(descriptor: int, length: int) -> None:
    """Append zeros to a file until it has this length. Unlike truncate, this allocates the space, or raises OSError."""
    while (missing := length - os.fstat(descriptor).st_size) > 0:
        os.write(descriptor, bytes(missing))


def use_allocated_files() -> None:
    """Make prometheus_client use SharedCounts in this process. Call this before the first metric is created.

    Has no effect if the workers do not share counts.
    """
    setattr(values, "MmapedDict", SharedCounts)  # noqa: B010 - the module does not export the name


def incomplete_processes(folder: Path) -> int:
    """Return how many processes, living or dead, have counts that are missing from their files."""
    return len({path.stem.rpartition("_")[2] for path in folder.glob(f"*{_MISSING}")})
