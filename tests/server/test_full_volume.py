"""The volume of the store is full: requests are refused clearly, jobs hold, and all goes on once there is room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from faults import fill
from gunicorn_server import Server, until


def test_a_full_volume_is_told_to_clients_and_survived(
    mount: Callable[[int], Path], make_server: Callable[..., Server]
) -> None:
    try:
        volume = mount(8)
    except OSError as error:
        pytest.skip(str(error))
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
