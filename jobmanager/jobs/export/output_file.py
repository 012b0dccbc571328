"""The part file that an export appends to. It can be truncated to the length that a checkpoint claims.

A part has one writer: the attempt that holds its file lock. An attempt may lose its lease without noticing, because
its process was frozen. Such an attempt keeps its own file, and the attempt that took over writes a copy.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from jobmanager.durable import sync_file

#: A checkpoint's claim about a part: its length in bytes, and the SHA-256 of those bytes.
Claim = tuple[int, str]

#: A part is read in blocks of this size. Each time that this many bytes were appended, the kernel is asked to start
#: writing them to disk.
BLOCK_BYTES = 4 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)


class NoSpace(Exception):
    """The volume of the job's files is full. Bytes that were written before are kept."""


class FilesUnusable(Exception):
    """The job's files cannot be read or written."""


class PartDamaged(Exception):
    """The part file does not match the checkpoint: it was truncated or changed."""


class PartHeld(Exception):
    """This attempt has lost its lease without noticing: another attempt writes its file."""


class Part:
    """A file open for appending, with its length and SHA-256."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file = file
        self._is_synced = False
        self._begun = 0  # the kernel was asked to start writing the bytes before this offset to disk
        self._digest = hashlib.sha256()
        self.path = path
        self.length = 0

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of all bytes written, in hexadecimal."""
        return self._digest.hexdigest()

    @classmethod
    def create(cls, path: Path) -> Part:
        """Create an empty part, and replace an existing file. Raises PartHeld if another attempt holds that file."""
        file = open(path, "r+b", buffering=0, opener=_open_or_make)  # noqa: SIM115 - closed by close()
        try:
            part = cls._lock(file, path)
        except BlockingIOError:
            raise PartHeld("Another attempt of this job writes its file.") from None
        with part._closed_on_error():
            # Truncate only now: during open(), this attempt did not yet hold the lock.
            file.truncate()
        return part

    @classmethod
    def reopen(cls, path: Path, *, length: int, sha256: str, copy_to: Path, on_block: Callable[[], None]) -> Part:
        """Reopen a part and truncate it to *length*. If another attempt still holds the part, returns a copy.

        The copy has the path *copy_to*.
        Calls *on_block* after each block, because reading a long part takes a while. Raises PartDamaged if the part is
        missing, is shorter than *length*, or has another SHA-256. Raises PartHeld if another attempt holds *copy_to*.
        """
        try:
            file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed by close()
        except FileNotFoundError:
            raise PartDamaged("its file is missing") from None
        try:
            part = cls._lock(file, path)
        except BlockingIOError:
            return cls._copy(path, copy_to, length, sha256, on_block)
        with part._closed_on_error():
            for block in _blocks(file, length, on_block):
                part._count(block)
            part._check(length, sha256)
            file.truncate(length)
            part._begun = length
        return part

    @classmethod
    def _copy(cls, held: Path, path: Path, length: int, sha256: str, on_block: Callable[[], None]) -> Part:
        part = cls.create(path)
        with part._closed_on_error(), open(held, "rb", buffering=0) as file:
            for block in _blocks(file, length, on_block):
                part.write(block)
            part._check(length, sha256)
        return part

    @classmethod
    def _lock(cls, file: FileIO, path: Path) -> Part:
        """Lock the file and return its part. Closes the file and raises BlockingIOError if it is locked already."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            file.close()
            raise
        return cls(file, path)

    def write(self, data: Any) -> None:
        """Append bytes. If this raises, `length` and `sha256` include nothing of *data*."""
        self._is_synced = False
        # The file is unbuffered, so that a failed write cannot affect earlier ones. An unbuffered write may be partial.
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self._file.write(rest) :]
        self._count(data)
        if self.length - self._begun >= BLOCK_BYTES:
            self._begin_to_sync()

    def _begin_to_sync(self) -> None:
        """Make the kernel start writing dirty pages to disk. Does not wait.

        A later fsync of this or another file on the same disk then takes a millisecond instead of fifty. On
        POSIX_FADV_DONTNEED, Linux starts to write dirty pages, and drops no page while it is being written. macOS has
        no such call: the fsync takes longer there.
        """
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), self._begun, self.length - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = self.length

    def sync(self) -> None:
        """Make all written bytes durable (fsync)."""
        if not self._is_synced:
            sync_file(self._file.fileno())
            self._is_synced = True

    def close(self) -> None:
        """Close the file and release its lock. Bytes that were not synced may be lost."""
        self._file.close()

    def _count(self, data: Any) -> None:
        self.length += len(data)
        self._digest.update(data)

    def _check(self, length: int, sha256: str) -> None:
        if self.length < length:
            raise PartDamaged("it is shorter than its checkpoint claims")
        if self.sha256 != sha256:
            raise PartDamaged("its content has changed")

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


@contextmanager
def translate_os_errors() -> Iterator[None]:
    """Raise NoSpace or FilesUnusable instead of OSError, whose message may show paths."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace("There is no space left on the volume of the job's files.") from None
        reason = os.strerror(error.errno) if error.errno else "input or output failed"
        raise FilesUnusable(f"The job's files cannot be used: {reason}.") from None


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)


def remove_unless_locked(path: Path) -> None:
    """Remove a file, unless an attempt that still runs holds its lock."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):  # locked, or already removed
        return


def sha256(path: Path, on_block: Callable[[], None], *, begins_with: Claim | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal. Calls *on_block* after each block.

    Raises PartDamaged if the beginning of the file does not match the claim.
    """
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        if begins_with is not None:
            length, claimed = begins_with
            for block in _blocks(file, length, on_block):
                digest.update(block)
            if digest.hexdigest() != claimed:
                raise PartDamaged("the file made from it is damaged")
        for block in _blocks(file, path.stat().st_size, on_block):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: FileIO, length: int, on_block: Callable[[], None]) -> Iterator[bytes]:
    """Yield the first *length* bytes of a file in blocks; fewer if the file is shorter."""
    left = length
    while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
        yield block
        left -= len(block)
        on_block()
