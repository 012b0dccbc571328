"""Make folders and files that only the user of this process may read, whatever the umask is.

Does not change the umask: it belongs to the whole process, which may be an application that embeds the manager.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents. Leaves existing folders and their modes alone."""
    if path.is_dir():
        return
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(0o700, exist_ok=True)


def make_file(path: Path) -> None:
    """Make an empty file if the file is missing. Leaves an existing file and its mode alone."""
    # O_EXCL: do not open an existing file. If SQLite has it open here, closing it would release SQLite's locks on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
