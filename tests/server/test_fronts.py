"""nginx and Caddy in front of the service, as docs/operations.md configures them, pass everything on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from gunicorn_server import ROOT, Server, until

from jobmanager.auth.tokens import Role, TokenFile
from jobmanager.jobs.export.sample import make_sample
from tests.ports import free_port

GUIDE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
MIB = 1024 * 1024
INSTALL = {"nginx": "apt-get install nginx-light", "caddy": "apt-get install caddy"}

#: What stands around the documented part: nothing of it is shared with the machine's own nginx.
_NGINX = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {documented}
}}
"""
_CADDY = "{{\n    admin off\n}}\n{documented}"


def documented(kind: str, **replaced: str) -> str:
    """Return the configuration that the guide shows, with what has to differ in a test replaced."""
    (shown,) = re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL)
    for old, new in replaced.items():
        assert old in shown, old
        shown = shown.replace(old, new)
    return str(shown)


class Front:
    """A front that runs, and how its clients reach the service through it."""

    def __init__(self, kind: str, folder: Path, server: Server, token: str) -> None:
        program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin")
        if program is None:
            pytest.skip(f"there is no {kind} here; install it with: {INSTALL[kind]}")
        self.folder, self.program, self.upstream = folder, program, f"127.0.0.1:{server.port}"
        self.port = free_port()
        self.log = folder / "front.log"
        self.url, command, environment = getattr(self, f"_{kind}")()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        headers = {"Authorization": f"Bearer {token}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, verify=False, timeout=30)

    def _nginx(self) -> tuple[str, list[str], dict[str, str]]:
        subject = ["-subj", "/CN=127.0.0.1", "-days", "2"]
        keys = ["-keyout", str(self.folder / "key"), "-out", str(self.folder / "certificate")]
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *keys, *subject]
        subprocess.run(make, check=True, capture_output=True)
        replaced = {
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "127.0.0.1:8080": self.upstream,
            "/etc/ssl/jobs.example.com.pem": str(self.folder / "certificate"),
            "/etc/ssl/jobs.example.com.key": str(self.folder / "key"),
        }
        # Otherwise the workers of a root's nginx are another user, who may not write to this folder.
        user = "user root;" if os.geteuid() == 0 else ""
        shown = documented("nginx", **replaced)
        file = self.folder / "nginx.conf"
        file.write_text(_NGINX.format(user=user, folder=self.folder, documented=shown), encoding="utf-8")
        return f"https://127.0.0.1:{self.port}", [self.program, "-c", str(file), "-p", str(self.folder)], {}

    def _caddy(self) -> tuple[str, list[str], dict[str, str]]:
        # Without TLS: for that it would ask for a certificate.
        replaced = {"jobs.example.com": f"http://127.0.0.1:{self.port}", "127.0.0.1:8080": self.upstream}
        file = self.folder / "Caddyfile"
        file.write_text(_CADDY.format(documented=documented("caddy", **replaced)), encoding="utf-8")
        command = [self.program, "run", "--config", str(file), "--adapter", "caddyfile"]
        return f"http://127.0.0.1:{self.port}", command, {"HOME": str(self.folder)}

    def answers(self) -> bool:
        """Return True if the service answers through it."""
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(params=["nginx", "caddy"])
def front(request: pytest.FixtureRequest, make_server: Callable[..., Server], tmp_path: Path) -> Iterator[Front]:
    """Return a front of a server that asks for tokens and can export a sample."""
    tokens = TokenFile(tmp_path / "tokens")
    secret = tokens.add("ann", Role.OPERATOR, now=datetime.now(UTC))
    make_sample(tmp_path, rows=1000)
    folder = tmp_path / "front"
    folder.mkdir()
    server = make_server(workers=1, TOKENS=tokens.path, DATASETS=tmp_path / "datasets.toml")
    server.start()
    front = Front(request.param, folder, server, secret)
    try:
        until(front.answers, lambda: front.log.read_text(encoding="utf-8"))
        yield front
    finally:
        front.close()
        for log in (front.log, *folder.glob("error.log")):
            print(f"{log}:\n{log.read_text(encoding='utf-8')}")  # pytest shows it if the test failed


def test_a_front_passes_on_requests_batches_events_and_ranges(front: Front) -> None:
    client = front.client

    job = client.post("/jobs", json={"type": "Units", "args": {"units": 100_000}})
    assert job.status_code == 202, job.text
    assert httpx.URL(job.headers["Location"]).path == f"/jobs/{job.json()['id']}"

    assert_events_come_as_they_happen(client, job.json()["id"])
    assert_a_batch_of_two_mebibytes_is_taken(client)
    assert_a_file_comes_by_ranges(client)
    # As a page of the service sends it, through the front.
    own = {"Origin": front.url, "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"/jobs/{job.json()['id']}/stop", json={}, headers=own).status_code in (200, 202)
    assert client.get("/health/ready", headers={"Authorization": ""}).status_code == 200
    assert client.get("/jobs", headers={"Authorization": ""}).status_code == 401


def assert_events_come_as_they_happen(client: httpx.Client, job_id: str) -> None:
    """Follow a job, and do something only once the event before it was seen: a front that keeps any back hangs."""
    with client.stream("GET", f"/jobs/{job_id}/events", timeout=15) as stream:
        lines = stream.iter_lines()
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        until_change(lines, "running")
        client.post(f"/jobs/{job_id}/halt", json={})
        until_change(lines, "halted")
        client.post(f"/jobs/{job_id}/resume", json={})
        until_change(lines, "running")


def until_change(lines: Iterator[str], status: str) -> None:
    """Read events until a job has changed to that status."""
    for line in lines:
        name, _, data = line.partition(": ")
        if name == "data" and json.loads(data).get("to_status") == status:
            return
    raise AssertionError(f"at {datetime.now(UTC)} the stream has ended before the job was {status}")


def assert_a_batch_of_two_mebibytes_is_taken(client: httpx.Client) -> None:
    jobs = [{"type": "Units", "args": {"units": 0}}] * 10
    body = json.dumps(jobs).encode().ljust(2 * MIB)

    answer = client.post("/jobs/batch", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 202, answer.text


def assert_a_file_comes_by_ranges(client: httpx.Client) -> None:
    args = {"from_date": "2023-01-01", "to_date": "2024-12-31"}
    export = client.post("/jobs", json={"type": "Export", "args": args}).json()["id"]
    until(lambda: client.get(f"/jobs/{export}").json()["status"] == "completed", "the export")

    whole = client.get(f"/jobs/{export}/artifact")
    part = client.get(f"/jobs/{export}/artifact", headers={"Range": "bytes=10-19", "If-Range": whole.headers["ETag"]})

    assert whole.status_code == 200
    assert (part.status_code, part.content) == (206, whole.content[10:20])
