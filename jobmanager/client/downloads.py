"""Where a download goes: a file that appears when it is whole, or a stream of bytes.

Blocks while it writes, as the page cache takes it.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

from jobmanager.client.errors import Damaged


class Sink(Protocol):
    """What takes a download."""

    def size(self) -> int:
        """Return how many bytes are there."""

    def write(self, chunk: bytes) -> None:
        """Take more bytes."""

    def restart(self) -> None:
        """Forget the bytes that are there; raises Damaged where that cannot be done."""

    def sha256(self) -> str:
        """Return what stands for the bytes that are there."""

    def finish(self) -> Path | None:
        """Make the file appear; returns where."""

    def close(self) -> None:
        """Keep what is there for another time."""


class PartFile:
    """A file under a name of its own until it is whole: what broke off goes on there, in another process too."""

    def __init__(self, path: Path, job_id: str) -> None:
        self._path = path
        # A completed job's file never changes: its id stands for the content.
        self._part = path.with_name(f".{path.name}.{job_id}.part")
        self._closing = ExitStack()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()

    def size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def write(self, chunk: bytes) -> None:
        file = self._opened()
        file.write(chunk)
        file.flush()  # what is there is what was written, also for the next who looks at its size
        self._hash.update(chunk)

    def restart(self) -> None:
        self._opened().truncate(0)
        self._hash = hashlib.sha256()

    def sha256(self) -> str:
        self._opened()
        return self._hash.hexdigest()

    def finish(self) -> Path:
        os.fsync(self._opened().fileno())
        self.close()
        os.replace(self._part, self._path)
        return self._path

    def close(self) -> None:
        self._closing.close()
        self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self._closing.enter_context(self._part.open("a+b"))
            self._file.seek(0)
            while chunk := self._file.read(1 << 20):
                self._hash.update(chunk)
        return self._file


class Stream:
    """What somebody else reads, as it comes: nothing can be taken back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._hash = hashlib.sha256()

    def size(self) -> int:
        return self._size

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._size += len(chunk)
        self._hash.update(chunk)

    def restart(self) -> None:
        if self._size:
            raise Damaged("The download is not what the job made; it was written to a stream, and cannot be mended.")

    def sha256(self) -> str:
        return self._hash.hexdigest()

    def finish(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Leave the stream to whoever gave it."""


def sink_for(to: str | Path | BinaryIO | None, filename: str, job_id: str) -> Sink:
    """Return what takes a job's file: at a path, in a folder, in a stream, or here (None) under the *filename*.

    Raises FileExistsError where a file of that name is there, and nobody said that it is to be replaced.
    """
    if to is not None and not isinstance(to, (str, Path)):
        return Stream(to)
    path = Path() if to is None else Path(to)
    if not path.is_dir():
        return PartFile(path, job_id)
    # The name comes from elsewhere: it may not lead out of the folder, nor hide.
    path /= Path(filename).name.lstrip(".") or job_id
    if path.exists():
        raise FileExistsError(f"{path} is there already.")
    return PartFile(path, job_id)
