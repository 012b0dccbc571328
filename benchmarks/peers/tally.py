"""Counts jobs that have run, in any thread of any process, at no cost to speak of.

Each process has a file of its own in the folder TALLY, mapped into its memory: to count is no system call, and lets go
of no lock that others wait for.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path

_NUMBER = struct.Struct("=q")

_lock = threading.Lock()  # guards _mapped and _counted
_mapped: mmap.mmap | None = None
_counted = 0


def count(jobs: int = 1) -> None:
    """Count a job more; with 0, say that jobs are about to be taken up."""
    global _mapped, _counted  # noqa: PLW0603 - a job knows nothing but this module
    with _lock:
        if _mapped is None:
            _mapped = _open()
        _counted += jobs
        _NUMBER.pack_into(_mapped, 0, _counted)


def total(folder: Path) -> int | None:
    """Return how many jobs were counted, by all processes that count in *folder*; None before the first one does."""
    numbers = [path.read_bytes() for path in folder.iterdir()]
    counts = [_NUMBER.unpack(number)[0] for number in numbers if len(number) == _NUMBER.size]
    return sum(counts) if counts else None


def _open() -> mmap.mmap:
    with open(Path(os.environ["TALLY"]) / str(os.getpid()), "w+b") as file:
        file.write(_NUMBER.pack(0))
        file.flush()
        return mmap.mmap(file.fileno(), _NUMBER.size)


def _begin_anew() -> None:
    """Have a process that was just forked count for itself."""
    global _lock, _mapped, _counted
    _lock, _mapped, _counted = threading.Lock(), None, 0


os.register_at_fork(after_in_child=_begin_anew)
