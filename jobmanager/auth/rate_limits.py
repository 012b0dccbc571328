"""Limit the requests a minute: one bucket for each API token, shared by all processes of a machine.

A bucket is a file of eight bytes: the time at which the bucket is full again. The generic cell rate algorithm (ITU-T
I.371) needs no other state. A lock on the file makes the limit exact over all workers; the kernel drops the lock of a
process that dies. The clock is CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from jobmanager.private import make_folder

_MINUTE = 60.0
_TIME = struct.Struct("<d")
#: How long to wait for the lock. Other processes hold it for microseconds, unless they are frozen.
_PATIENCE_SECONDS = 0.1


def take(file: Path, *, per_minute: int, now: float) -> float:
    """Take one request from the bucket and return 0. If the bucket is empty, return how many seconds to wait.

    *now* is a time of time.monotonic(). The bucket holds a minute's requests and fills up evenly. Blocks for a tenth
    of a second at most. Raises OSError if the file cannot be used, BlockingIOError if it stays locked.
    """
    with _locked(file) as bucket:
        kept = os.pread(bucket, _TIME.size, 0)
        full_at = _TIME.unpack(kept)[0] if len(kept) == _TIME.size else now
        later, wait_seconds = after_one(full_at, per_minute=per_minute, now=now)
        if wait_seconds == 0:
            os.pwrite(bucket, _TIME.pack(later), 0)
        return wait_seconds


def after_one(full_at: float, *, per_minute: int, now: float) -> tuple[float, float]:
    """Return the time at which the bucket is full after one more request, and 0.

    If the bucket is empty, return *full_at* unchanged, and the seconds that the request has to wait.

    >>> after_one(0, per_minute=6, now=100)
    (110.0, 0.0)
    >>> after_one(160, per_minute=6, now=100)
    (160, 10.0)
    """
    empty = now + _MINUTE
    # If `full_at` is later than `empty`, it was stored before a reboot, which resets the clock.
    begin = max(full_at, now) if full_at <= empty else now
    later = begin + _MINUTE / per_minute
    too_much = later - empty
    # min(), because rounding errors must not make the time later than `empty`.
    return (min(later, empty), 0.0) if too_much < 1e-6 else (full_at, too_much)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[int]:
    """Open and lock the file, and yield its descriptor. Raises BlockingIOError if it stays locked.

    The lock belongs to the descriptor, not to the process: threads of one process exclude each other, too.
    """
    make_folder(file.parent)
    number = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(number)
        yield number
    finally:
        os.close(number)


def _lock(number: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.0005)
