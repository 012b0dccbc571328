"""Targets of a download: a file that appears once it is complete, or a binary stream.

Writes block; for files, usually only until the page cache has the data.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

from jobmanager.client.errors import Damaged
from jobmanager.durable import sync_file


class Sink(Protocol):
    """Target of a download."""

    def size(self) -> int:
        """Return the number of bytes received."""

    def write(self, chunk: bytes) -> None:
        """Append bytes."""

    def restart(self) -> None:
        """Discard the bytes received. Raises Damaged if that is impossible."""

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes received, in hex."""

    def finish(self) -> Path | None:
        """Publish the complete file and return its path; None for a stream."""

    def close(self) -> None:
        """Close the target. Keeps an incomplete file, so that a later download can continue it."""


class PartFile:
    """A file with a temporary name until it is complete. A later download, even in another process, continues it."""

    def __init__(self, path: Path, job_id: str) -> None:
        self._path = path
        # A completed job's file never changes, so the job's id identifies the content.
        self._part = path.with_name(f".{path.name}.{job_id}.part")
        self._closing = ExitStack()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()

    def size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def write(self, chunk: bytes) -> None:
        file = self._open_part()
        file.write(chunk)
        file.flush()  # size() reads the length from the file system
        self._hash.update(chunk)

    def restart(self) -> None:
        self._open_part().truncate(0)
        self._hash = hashlib.sha256()

    def sha256(self) -> str:
        self._open_part()
        return self._hash.hexdigest()

    def finish(self) -> Path:
        sync_file(self._open_part().fileno())
        self.close()
        os.replace(self._part, self._path)
        return self._path

    def close(self) -> None:
        self._closing.close()
        self._file = None

    def _open_part(self) -> BinaryIO:
        if self._file is None:
            self._file = self._closing.enter_context(self._part.open("a+b"))
            self._file.seek(0)
            while chunk := self._file.read(1 << 20):
                self._hash.update(chunk)
        return self._file


class StreamSink:
    """A binary stream. Bytes that were written cannot be taken back."""

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
            raise Damaged("The download has to start over, but part of it is already written to a stream.")

    def sha256(self) -> str:
        return self._hash.hexdigest()

    def finish(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Leave the stream open: the caller owns it."""


def sink_for(to: str | Path | BinaryIO | None, filename: str, job_id: str) -> Sink:
    """Return the sink for a job's file: *to* is a path, a folder, a stream, or None for the current folder.

    In a folder, the file is called *filename*; raises FileExistsError if the folder has such a file. If *to* is the
    path of a file, the download replaces that file.
    """
    if to is not None and not isinstance(to, (str, Path)):
        return StreamSink(to)
    path = Path() if to is None else Path(to)
    if not path.is_dir():
        return PartFile(path, job_id)
    # The server chose the name: it must not lead out of the folder, nor be hidden.
    path /= Path(filename).name.lstrip(".") or job_id
    if path.exists():
        raise FileExistsError(f"{path} already exists. To replace it, give its path.")
    return PartFile(path, job_id)
