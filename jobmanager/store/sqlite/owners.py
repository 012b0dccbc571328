"""The processes that use a SQLite file: which are alive, and which have died or stalled.

Knows nothing about jobs. A process is alive as long as the kernel keeps its file lock; see Owners.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from jobmanager.private import make_folder

#: The prefix of a file that marks a process as stalled, and how long that file is kept.
_STILL = ".still-"
_NOTE_SECONDS = 3600.0


def note_standstill(path: str, prefix: str) -> None:
    """Mark the processes whose names begin with *prefix* as stalled.

    Takes no lock of the database, because a stalled process may hold that lock.
    """
    Owners(Path(f"{path}-owners")).note_standstill(prefix)


class Owners:
    """The processes that use a store's file. Each keeps a file of its own locked.

    The kernel releases that lock when the last thread of the process has ended. So if another process gets the lock,
    the owner is dead, and its jobs can be taken back before their leases expire.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[Path, int] | None = None

    def register(self, owner: str) -> None:
        """Register this process under the name *owner*; raises OSError."""
        make_folder(self._folder)
        self._forget_standstills()
        path = self._folder / owner
        # Lock the file under a hidden name, then rename it: an unlocked file would look like that of a dead process.
        unseen = self._folder / f".{owner}"
        descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(unseen, path)
        self._own = (path, descriptor)

    def leave(self) -> None:
        """Unregister this process; may be called twice."""
        if self._own is not None:
            path, descriptor = self._own
            path.unlink(missing_ok=True)
            os.close(descriptor)
            self._own = None

    def take_dead(self) -> list[str]:
        """Return the names of the processes that have died, and delete their files."""
        return [path.name for path in self._folder.glob("[!.]*") if self._remove_if_dead(path)]

    def note_standstill(self, prefix: str) -> None:
        """Mark the processes whose names begin with *prefix* as stalled: they are about to be killed."""
        for path in self._folder.glob("[!.]*"):
            if path.name.startswith(prefix):
                self._still(path.name).touch(0o600)

    def stands_still(self, owner: str) -> bool:
        """Return True if the process named *owner* was marked as stalled."""
        return self._still(owner).exists()

    def _still(self, owner: str) -> Path:
        return self._folder / f"{_STILL}{owner}"

    def _forget_standstills(self) -> None:
        """Delete the marks of processes that were killed long ago: their jobs were taken back soon after."""
        for path in self._folder.glob(f"{_STILL}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _NOTE_SECONDS:
                    path.unlink()

    def is_alive(self, owner: str) -> bool:
        """Return True if the process named *owner* is alive, even if it is frozen; False if it has died or left."""
        path = self._folder / owner
        return path.exists() and not self._has_died(path)

    def _remove_if_dead(self, path: Path) -> bool:
        if not self._has_died(path):
            return False
        path.unlink(missing_ok=True)
        return True

    def _has_died(self, path: Path) -> bool:
        """Return True if the process that locked the file has died; False if it is alive, or if the file is gone."""
        if self._own is not None and path == self._own[0]:
            return False
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # another process has deleted it, or its owner has left
            return False
        try:
            # A shared lock: two processes that check at the same time must not take each other for the owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True
