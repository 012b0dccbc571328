"""The file that an export grows: exact to the byte, with one writer, even if others have it open."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobmanager.jobs.export import output_file as module
from jobmanager.jobs.export.output_file import (
    FilesUnusable,
    NoSpace,
    Part,
    PartDamaged,
    PartHeld,
    remove_unless_locked,
    sha256,
    translate_os_errors,
)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def reopen(path: Path, claimed: bytes, copy_to: Path | None = None, on_block: Callable[[], None] = str) -> Part:
    """Go on with a part of which a checkpoint has claimed these bytes."""
    copy_to = copy_to or path.with_name("copy")
    return Part.reopen(path, length=len(claimed), sha256=digest(claimed), copy_to=copy_to, on_block=on_block)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Have another attempt hold the lock of a file."""
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_part_knows_length_and_hash_of_what_was_written(tmp_path: Path) -> None:
    with closing(Part.create(tmp_path / "part")) as part:
        empty = (part.length, part.sha256)
        part.write(b"abc")
        part.write(memoryview(b"defg"))
        part.sync()

        assert empty == (0, digest(b""))
        assert (part.length, part.sha256) == (7, digest(b"abcdefg"))
        assert part.path.read_bytes() == b"abcdefg"


def test_what_the_kernel_is_told_to_write_early_is_the_same_afterwards(tmp_path: Path) -> None:
    pieces = [bytes([number]) * 700_001 for number in range(20)]
    with closing(Part.create(tmp_path / "part")) as part:
        for piece in pieces[:10]:
            part.write(piece)
    written = b"".join(pieces[:10])

    with closing(reopen(tmp_path / "part", written)) as part:
        for piece in pieces[10:]:
            part.write(piece)
        part.sync()

        assert part.sha256 == digest(b"".join(pieces))
    assert (tmp_path / "part").read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("behind", [b"", b"torn", b"\0" * 10_000])
def test_a_part_goes_on_where_its_checkpoint_says_and_what_is_behind_is_cut_off(tmp_path: Path, behind: bytes) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"abc" + behind)

    with closing(reopen(path, b"abc")) as part:
        part.write(b"d")

        assert (part.path, part.length, part.sha256) == (path, 4, digest(b"abcd"))
    assert path.read_bytes() == b"abcd"


def test_a_checkpoint_of_nothing_is_gone_on_from_too(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"torn")

    with closing(reopen(path, b"")):
        assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("found", "says"), [(b"ab", "shorter"), (b"", "shorter"), (b"abx", "changed"), (b"\0\0\0", "changed")]
)
@pytest.mark.parametrize("is_held", [False, True], ids=["free", "held"])
def test_a_part_that_is_not_what_was_claimed_is_damaged_and_left_as_it_is(
    tmp_path: Path, found: bytes, says: str, is_held: bool
) -> None:
    path = tmp_path / "part"
    path.write_bytes(found)

    with held(path) if is_held else io.BytesIO(), pytest.raises(PartDamaged, match=says):
        reopen(path, b"abc")

    assert path.read_bytes() == found


def test_a_part_that_is_missing_is_damaged_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(PartDamaged, match="missing"):
        reopen(tmp_path / "part", b"abc")

    assert list(tmp_path.iterdir()) == []


def test_a_part_that_another_holds_is_copied_and_neither_harms_the_other(tmp_path: Path) -> None:
    with closing(Part.create(tmp_path / "part")) as first:
        first.write(b"abc")
        first.write(b"unclaimed")

        with closing(reopen(first.path, b"abc")) as second:
            first.write(b"more")
            second.write(b"d")

            assert second.path == tmp_path / "copy"
            assert (second.length, second.sha256) == (4, digest(b"abcd"))
    assert (tmp_path / "part").read_bytes() == b"abcunclaimedmore"
    assert (tmp_path / "copy").read_bytes() == b"abcd"


@pytest.mark.parametrize("is_new", [True, False], ids=["begun", "gone on with"])
def test_who_comes_late_does_not_even_truncate_a_file_that_another_holds(tmp_path: Path, is_new: bool) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"abc, and what the successor wrote")

    with held(path), pytest.raises(PartHeld):
        Part.create(path) if is_new else reopen(path, b"abc", copy_to=path)

    assert path.read_bytes() == b"abc, and what the successor wrote"


def test_what_a_dead_attempt_left_under_the_name_of_a_new_part_goes(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"old and long")

    with closing(Part.create(tmp_path / "part")) as part:
        part.write(b"new")

    assert (tmp_path / "part").read_bytes() == b"new"


def test_the_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from jobmanager.jobs.export.output_file import Part\n"
        "part = Part.create(pathlib.Path(sys.argv[1])); part.write(b'abc'); print('held', flush=True); time.sleep(60)"
    )
    root = Path(module.__file__).parents[3]
    command = [sys.executable, "-c", script, str(tmp_path / "part")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while_alive = reopen(tmp_path / "part", b"abc")
        process.kill()
    while_alive.close()

    after = reopen(tmp_path / "part", b"abc")
    after.close()

    assert while_alive.path == tmp_path / "copy"
    assert after.path == tmp_path / "part"


def test_nothing_of_a_write_that_failed_counts_and_it_can_be_gone_on_from(tmp_path: Path) -> None:
    with closing(Part(_Full(tmp_path / "part", room=5), tmp_path / "part")) as part:
        part.write(b"abc")
        with pytest.raises(NoSpace), translate_os_errors():
            part.write(b"defg")

        assert (part.length, part.sha256) == (3, digest(b"abc"))
    with closing(reopen(tmp_path / "part", b"abc")) as again:
        again.write(b"d")
    assert (tmp_path / "part").read_bytes() == b"abcd"


class _Full(io.FileIO):
    """A file on a volume that has room for a few bytes."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path, "w+")
        self._room = room

    def write(self, data: Any) -> int:
        if not self._room:
            raise OSError(28, os.strerror(28), "/secret")
        written = super().write(memoryview(data)[: self._room])
        self._room -= written
        return written


def test_checking_a_long_part_stops_now_and_then_and_leaves_nothing_open_if_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        blocks.append(None)
        if len(blocks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "BLOCK_BYTES", 10)
    blocks: list[None] = []
    path = tmp_path / "part"
    path.write_bytes(b"0123456789" * 5)

    with pytest.raises(KeyboardInterrupt):
        reopen(path, b"0123456789" * 5, on_block=interrupt)

    with closing(reopen(path, b"0123456789" * 5)) as part:
        assert part.path == path, "the lock was let go"


def test_leftovers_go_unless_they_are_held_or_gone_already(tmp_path: Path) -> None:
    for name in ("free", "held"):
        (tmp_path / name).write_bytes(b"x")

    with held(tmp_path / "held"):
        for name in ("free", "held", "gone"):
            remove_unless_locked(tmp_path / name)

    assert [path.name for path in tmp_path.iterdir()] == ["held"]


@pytest.mark.parametrize("size", [0, 1, 10, 25])
def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 10)
    (tmp_path / "file").write_bytes(b"x" * size)

    assert sha256(tmp_path / "file", lambda: None) == digest(b"x" * size)


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (28, NoSpace, "There is no space left on the volume of the job's files."),
        (122, NoSpace, "There is no space left on the volume of the job's files."),
        (13, FilesUnusable, "The job's files cannot be used: Permission denied."),
        (5, FilesUnusable, "The job's files cannot be used: Input/output error."),
        (None, FilesUnusable, "The job's files cannot be used: input or output failed."),
    ],
)
def test_what_the_file_system_says_comes_out_in_our_words(number: int | None, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught, translate_os_errors():
        raise OSError(number, "x", "/secret/path") if number else OSError("/secret/path")

    assert str(caught.value) == says
