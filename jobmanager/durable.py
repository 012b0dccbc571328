"""Make files and their names durable: what was synced survives a power cut."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def sync_file(descriptor: int) -> None:
    """Make all bytes of an open file durable. Blocks until the drive has them; raises OSError."""
    # On macOS, fsync leaves data in the cache of the drive. This command flushes that cache, too. Other systems lack
    # the command.
    if hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):  # some file systems, such as network drives, know fsync only
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names of the folder's files durable. Blocks; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)
