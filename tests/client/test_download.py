"""A download delivers the whole file or none, and continues after a break."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobmanager import Client
from jobmanager.client import Damaged, Unreachable

SIZE = 640_000


@pytest.fixture
def job(client: Client) -> Any:
    return client.submit("File", {"size": SIZE, "name": "../../.ssh/numbers.csv"}).wait(20)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_download_stays_in_its_folder_and_replaces_no_file_unasked(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    path = job.download()

    assert path == Path("numbers.csv")
    assert sha256(path) == job.result["sha256"]
    assert [file.name for file in Path().iterdir()] == ["numbers.csv"]
    with pytest.raises(FileExistsError):
        job.download()
    assert job.download("numbers.csv") == path


def test_a_broken_download_continues_where_it_broke_off(
    job: Any, proxy: Any, through: Callable[..., Client], tmp_path: Path
) -> None:
    proxy.plan = [1 << 40, 200_000, 0, 300_000]

    path = through().download(job.id, tmp_path / "file")

    assert path is not None
    assert sha256(path) == job.result["sha256"]
    assert proxy.requests.count(f"GET /jobs/{job.id}/artifact") == 4
    assert [file.name for file in tmp_path.glob("*file*")] == ["file"]


def test_a_later_call_continues_a_failed_download(
    job: Any, proxy: Any, through: Callable[..., Client], tmp_path: Path
) -> None:
    proxy.plan = [1 << 40, 400_000]
    with pytest.raises(Unreachable):
        through(retry_seconds=0).download(job.id, tmp_path / "file")
    (part,) = tmp_path.glob(".file.*.part")
    there = part.stat().st_size
    assert 0 < there <= 400_000

    through().download(job.id, tmp_path / "file")

    assert sha256(tmp_path / "file") == job.result["sha256"]


@pytest.mark.parametrize("size", [1000, SIZE + 1])
def test_a_damaged_part_file_is_downloaded_again(job: Any, tmp_path: Path, size: int) -> None:
    (tmp_path / f".file.{job.id}.part").write_bytes(bytes(size))

    job.download(tmp_path / "file")

    assert sha256(tmp_path / "file") == job.result["sha256"]


def test_a_file_with_a_wrong_checksum_never_appears(service: Any, job: Any, tmp_path: Path) -> None:
    (service.settings.data_dir / "jobs" / job.id / "data").write_bytes(bytes(SIZE))

    with pytest.raises(Damaged, match="SHA-256"):
        job.download(tmp_path / "file")

    assert not (tmp_path / "file").exists()


def test_a_download_into_a_stream_survives_a_broken_connection(
    job: Any, proxy: Any, through: Callable[..., Client]
) -> None:
    stream = io.BytesIO()
    proxy.plan = [1 << 40, 200_000]

    assert through().download(job.id, stream) is None

    assert hashlib.sha256(stream.getvalue()).hexdigest() == job.result["sha256"]


def partial_reply(content: bytes, begin: int, size: int) -> bytes:
    """Return a 206 reply with these bytes of a file, from *begin* on."""
    head = f"Content-Range: bytes {begin}-{begin + len(content) - 1}/{size}\r\nContent-Length: {len(content)}"
    return f"HTTP/1.1 206 Partial Content\r\n{head}\r\nConnection: close\r\n\r\n".encode() + content


def test_a_download_requests_the_rest_if_a_server_sends_less_than_was_requested(
    client: Client, proxy: Any, through: Callable[..., Client], tmp_path: Path
) -> None:
    job = client.submit("File", {"size": SIZE, "has_sha256": False}).wait(20)
    job.download(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / f".file.{job.id}.part").write_bytes(whole[:1000])
    proxy.plan = [1 << 40, partial_reply(whole[1000:3000], 1000, SIZE), partial_reply(whole[3000:3001], 3000, SIZE)]

    through().download(job.id, tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == whole


def test_a_part_that_is_shorter_than_it_says_is_not_taken_for_the_end_of_the_file(
    client: Client, proxy: Any, through: Callable[..., Client], tmp_path: Path
) -> None:
    job = client.submit("File", {"size": SIZE, "has_sha256": False}).wait(20)
    job.download(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / f".file.{job.id}.part").write_bytes(whole[:1000])
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1000-639999/640000\r\nTransfer-Encoding: chunked\r\n"
    proxy.plan = [1 << 40, head + b"Connection: close\r\n\r\n5\r\n" + whole[1000:1005] + b"\r\n0\r\n\r\n"]

    through().download(job.id, tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == whole


@pytest.mark.parametrize(
    "reply",
    [
        partial_reply(b"other", 2000, SIZE),
        partial_reply(b"other", 999, SIZE),
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nother",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1000-/*\r\nContent-Length: 5\r\n\r\nother",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1000-2000/640000\r\nContent-Length: 0\r\n\r\n",
        partial_reply(b"other", 1000, 1001),
    ],
)
def test_a_part_of_a_file_that_was_not_requested_fails_the_download(
    client: Client, proxy: Any, through: Callable[..., Client], tmp_path: Path, reply: bytes
) -> None:
    job = client.submit("File", {"size": SIZE, "has_sha256": False}).wait(20)
    (tmp_path / f".file.{job.id}.part").write_bytes(bytes(1000))
    proxy.plan = [1 << 40, reply]

    with pytest.raises(Damaged, match="The server sent"):
        through().download(job.id, tmp_path / "file")

    assert not (tmp_path / "file").exists()
