"""The command in its own process: in a pipe, on a terminal, with signals, and as a server."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobmanager import Client
from jobmanager.core.states import Status
from tests.ports import free_port

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def client(service: Any) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


class Terminal:
    """A pseudo-terminal that a test reads and types into."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self._text = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self._ours, 4096):
                self._text += chunk

    @property
    def text(self) -> str:
        return self._text.decode("utf-8", "replace")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        os.close(self.theirs)
        self._thread.join(5)
        os.close(self._ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def on(terminal: Terminal) -> dict[str, Any]:
    """Return the Popen arguments for a process with this controlling terminal, so that Ctrl-C reaches it."""

    def take() -> None:
        os.setsid()
        import fcntl  # noqa: PLC0415 - in the child
        import termios  # noqa: PLC0415

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return dict.fromkeys(("stdin", "stdout", "stderr"), terminal.theirs) | {"preexec_fn": take}


def test_output_in_a_pipe_has_no_colours(start: Start, client: Client) -> None:
    job = client.submit("Steps", {"n": 3})

    out, err = start("follow", job.id, env={"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}).communicate(timeout=30)

    assert err == b""
    assert b"\x1b" not in out
    assert b"step 2" in out
    assert b"is completed" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [("halt\n", 5, Status.HALTED), ("stop\n", 4, Status.STOPPED), ("\n", 130, Status.RUNNING)],
    ids=["halt it", "stop it", "leave it"],
)
def test_after_ctrl_c_the_user_can_halt_stop_or_leave_the_job(
    start: Start, client: Client, terminal: Terminal, until: Any, *, answer: str, code: int, status: Status
) -> None:
    job = client.submit("Steps")
    process = start("follow", job.id, "--no-log", **on(terminal))
    until(lambda: "running" in terminal.text and "%" in terminal.text, lambda: terminal.text, seconds=30)

    terminal.type("\x03")
    until(lambda: "for good?" in terminal.text, lambda: terminal.text)
    terminal.type(answer)

    assert process.wait(30) == code, terminal.text
    assert job.refresh().status is status
    assert "Traceback" not in terminal.text


def test_without_a_terminal_ctrl_c_leaves_the_job_running(start: Start, client: Client, until: Any) -> None:
    job = client.submit("Steps")
    process = start("follow", job.id, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert process.stdout is not None
    assert b"step" in process.stdout.readline() + process.stdout.readline()

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert err.decode() == f"Job {job.id} goes on.\n"
    assert job.refresh().status is Status.RUNNING


def test_watch_shows_a_live_table_on_a_terminal(start: Start, client: Client, terminal: Terminal, until: Any) -> None:
    first = client.submit("Steps")
    process = start("watch", "--interval", "0.1", **on(terminal))
    until(lambda: first.id in terminal.text, lambda: terminal.text, seconds=30)

    second = client.submit("Steps")
    until(lambda: second.id in terminal.text, lambda: terminal.text)
    terminal.type("\x03")

    assert process.wait(30) == 0
    assert "Traceback" not in terminal.text


def test_watch_prints_changes_in_a_pipe(start: Start, client: Client) -> None:
    process = start("watch", "--json", "--type", "Steps")
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
    reader.start()
    while reader.is_alive():
        client.submit("Steps", {"n": 1}).wait(10)
        reader.join(0.2)

    assert b'"job_id"' in lines[0]


def test_a_missing_server_is_an_error_of_one_sentence(start: Start) -> None:
    process = start("list", "--url", "http://127.0.0.1:9")

    out, err = process.communicate(timeout=30)

    assert (process.returncode, out) == (1, b"")
    assert err == b"Error: The job manager at http://127.0.0.1:9 cannot be reached: connection refused.\n"


def test_serve_works_in_any_folder(start: Start, tmp_path: Path, until: Any) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    data = str(tmp_path / "served")
    process = start("serve", "--port", str(port), "--workers", "2", env={"JOBMANAGER_DATA_DIR": data})

    def is_ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health/ready").status_code == 200
        return False

    until(is_ready, process.poll, seconds=40)
    with Client(url) as client:
        assert client.submit("Simple", {"steps": 2, "seconds": 0.01}).wait(20).result == {"steps": 2}
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err.count(b"Booting worker") == 2
    assert b"gthread" in err


def test_serve_refuses_a_wrong_setting_without_a_traceback(start: Start) -> None:
    process = start("serve", "--port", "1", env={"JOBMANAGER_SLOTS": "many"})

    _, err = process.communicate(timeout=40)

    assert process.returncode != 0
    assert b"JOBMANAGER_SLOTS must be a whole number" in err
    assert b"Traceback" not in err
