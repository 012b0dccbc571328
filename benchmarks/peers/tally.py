"""Count jobs that have run, in any thread of any process, at almost no cost.

Each process maps its own file in the folder TALLY into memory, so that counting needs no system call and does not
release the GIL.
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
    """Count one more job, or with 0 report that the worker begins."""
    global _mapped, _counted  # noqa: PLW0603 - jobs have access to this module only
    with _lock:
        if _mapped is None:
            _mapped = _open()
        _counted += jobs
        _NUMBER.pack_into(_mapped, 0, _counted)


def total(folder: Path) -> int | None:
    """Return the number of jobs that all processes have counted in *folder*; None before the first call of `count`."""
    numbers = [path.read_bytes() for path in folder.iterdir()]
    counts = [_NUMBER.unpack(number)[0] for number in numbers if len(number) == _NUMBER.size]
    return sum(counts) if counts else None


def _open() -> mmap.mmap:
    with open(Path(os.environ["TALLY"]) / str(os.getpid()), "w+b") as file:
        file.write(_NUMBER.pack(0))
        file.flush()
        return mmap.mmap(file.fileno(), _NUMBER.size)


def _reset() -> None:
    """Reset the count in a forked process, which gets its own file."""
    global _lock, _mapped, _counted
    _lock, _mapped, _counted = threading.Lock(), None, 0


os.register_at_fork(after_in_child=_reset)
