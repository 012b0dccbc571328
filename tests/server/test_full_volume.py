"""The volume of the store is full: requests are refused clearly, jobs hold, and all goes on once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gunicorn_server import Server, until


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a volume of its own, of eight mebibytes."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a volume: run the tests as root, as in a container")
    path = tmp_path / "volume"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    """Leave no byte free."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


def test_a_full_volume_is_told_to_clients_and_survived(make_server: Callable[..., Server], volume: Path) -> None:
    server = make_server(data="volume/data").start()
    job_id = server.submit("Simple", steps=200, seconds=0.01)
    server.until_done(job_id, 5)

    fill(volume / "filler")
    refused = until(
        lambda: (answer := server.client.post("/submit", json={"Type": "Simple"})).status_code != 200 and answer,
        "a submission that no longer fits",
    )

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert str(volume) not in refused.text
    assert server.client.get(f"/details/{job_id}").status_code == 200

    (volume / "filler").unlink()
    until(lambda: server.client.post("/submit", json={"Type": "Simple", "args": {"steps": 0}}).status_code == 200)
    server.until_status("completed", job_id, seconds=30)
    assert server.job(job_id)["failures"] == 0
