"""The file that an export grows: it can be cut back to what a checkpoint claims, and has one writer.

A part belongs to the attempt that holds its lock. An attempt that lost its lease without noticing, because its process
was frozen, keeps its own file: the one that took over writes a copy.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobmanager.errors import Fatal

_BLOCK = 4 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)


class NoSpace(Fatal):
    """The volume of the job's files is full; the part file is kept."""


class PartDamaged(Exception):
    """The part file is not what the checkpoint claims: it was cut off or changed."""


class Part:
    """A file open for appending, of which length and checksum are known."""

    def __init__(self, file: Any, path: Path, *, length: int, crc32: int) -> None:
        self._file = file
        self.path = path
        self.length = length
        self.crc32 = crc32

    @classmethod
    def create(cls, path: Path) -> Part:
        """Begin an empty part; what is there under its name goes."""
        file = open(path, "w+b")  # noqa: SIM115 - closed by close()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(file, path, length=0, crc32=0)

    @classmethod
    def reopen(cls, path: Path, *, length: int, crc32: int, copy_to: Path, on_block: Callable[[], None]) -> Part:
        """Go on with a part at *length*; in a copy if another attempt still holds it.

        Calls *on_block* now and then, for a long part takes a while to be checked. Raises PartDamaged.
        """
        try:
            file = open(path, "r+b")  # noqa: SIM115 - closed by close()
        except FileNotFoundError:
            raise PartDamaged("its file is missing") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return cls._copy(file, copy_to, length, crc32, on_block)
        try:
            _check(file, length, crc32, on_block)
        except BaseException:
            file.close()
            raise
        file.truncate(length)
        file.seek(length)
        return cls(file, path, length=length, crc32=crc32)

    @classmethod
    def _copy(cls, held: Any, path: Path, length: int, crc32: int, on_block: Callable[[], None]) -> Part:
        part = cls.create(path)
        with held:
            left = length
            while left > 0:
                block = held.read(min(left, _BLOCK))
                if not block:
                    break
                part.write(block)
                left -= len(block)
                on_block()
        if part.length != length or part.crc32 != crc32:
            part.close()
            raise PartDamaged("its content has changed")
        return part

    def write(self, data: Any) -> None:
        """Append; raises NoSpace, then nothing of *data* counts."""
        with space_needed():
            self._file.write(data)
        self.length += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def sync(self) -> None:
        """Make all that was written durable; raises NoSpace."""
        with space_needed():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, and let go of it; what was not synced may be lost."""
        try:
            self._file.close()
        except OSError as error:
            if error.errno not in _FULL:
                raise


@contextmanager
def space_needed() -> Iterator[None]:
    """Raise NoSpace where the volume turns out to be full."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace("There is no space left on the volume of the job's files.") from None
        raise


def sync_folder(folder: Path) -> None:
    """Make the names of the folder's files durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path, on_block: Callable[[], None]) -> str:
    """Return the SHA-256 of a file in hexadecimal; calls *on_block* now and then."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            on_block()
    return digest.hexdigest()


def _check(file: Any, length: int, crc32: int, on_block: Callable[[], None]) -> None:
    """Raise PartDamaged unless the first *length* bytes have that checksum."""
    found, left = 0, length
    while left > 0:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise PartDamaged("it is shorter than its checkpoint says")
        found, left = zlib.crc32(block, found), left - len(block)
        on_block()
    if found != crc32:
        raise PartDamaged("its content has changed")
