"""Notice the commits of other processes on a SQLite file, and let them notice ours.

A process announces a commit by opening a file; others notice this by inotify. The file is never read or written.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from sqlalchemy import Engine

try:
    from inotify_simple import INotify, flags
except ImportError:  # installed on Linux only
    INotify = None

_log = logging.getLogger(__name__)


def announce_commit(path: str) -> None:
    """Open and close the watched file, which wakes other processes. Does not write, which would need an fsync."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:  # the others poll, and notice the commit a moment later
        _log.debug("A commit was not announced to other processes: %s", error)


class Watch:
    """Reports whether anything was committed since the last call, in a few microseconds. For one thread.

    With inotify, its descriptor becomes readable as soon as another process announces a commit.
    """

    def __init__(self, engine: Engine, path: str) -> None:
        self._connection = engine.raw_connection()
        self._driver: Any = self._connection.driver_connection
        self._seen = -1
        self._opened = _opened(path)

    def has_moved(self) -> bool:
        """Return True if another connection, of any process, has committed since the last call. Does not block."""
        if self._opened is not None:
            self._opened.read(timeout=0)
        (version,) = self._driver.execute("PRAGMA data_version").fetchone()
        moved, self._seen = version != self._seen, version
        return bool(moved)

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when a commit is announced; None without inotify."""
        return None if self._opened is None else self._opened.fileno()

    def close(self) -> None:
        """Close the descriptor and return the connection to the pool."""
        if self._opened is not None:
            self._opened.close()
        self._connection.close()


def _opened(path: str) -> Any | None:
    """Return an inotify watch for opens of the file by any process; None if the system cannot provide one."""
    if INotify is None:
        return None
    opened: Any | None = None
    try:
        opened = INotify(nonblocking=True)
        opened.add_watch(path, flags.OPEN)
    except (AttributeError, OSError) as error:
        _log.warning("Cannot use inotify: commits of other processes are noticed up to 40 ms later: %s", error)
        if opened is not None:
            opened.close()
        return None
    return opened
