"""A real server on a real store, which can be restarted, and a proxy that loses replies on demand."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from jobmanager import Client, Fatal, Job, JobManager, Settings
from jobmanager.http import create_app
from jobmanager.registry import Registry
from tests.ports import free_port

sys.path.insert(0, str(Path(__file__).parent))


class Steps(Job):
    """Takes steps, and logs each."""

    class Args(BaseModel):
        n: int = 10_000
        seconds: float = 0.01

    def start(self) -> dict[str, int]:
        for step in range(self.cursor or 0, self.args.n):
            self.wait(self.args.seconds)
            self.log.info("step %d", step)
            self.checkpoint(cursor=step + 1, done=step + 1, total=self.args.n)
        return {"n": self.args.n}


class Wordy(Job):
    """Logs more than one page of lines."""

    def start(self) -> None:
        for number in range(300):
            self.log.info("%d %s", number, "x" * 9000)


class Fails(Job):
    """Fails at once."""

    def start(self) -> None:
        raise Fatal("as it should")


class File(Job):
    """Makes a file of a pattern that does not repeat soon."""

    class Args(BaseModel):
        size: int
        name: str = "data.bin"
        has_sha256: bool = True

    def start(self) -> dict[str, Any]:
        content = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(self.args.size // 32))
        (self.workdir / "data").write_bytes(content)
        named = {"file": "data", "filename": self.args.name}
        return named | ({"sha256": hashlib.sha256(content).hexdigest()} if self.args.has_sha256 else {})


class _Closing:
    """A response, and how to close it once."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks
        self._closing = contextlib.ExitStack()
        self._closing.callback(chunks.close)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        self._closing.close()


class _Handler(WSGIRequestHandler):
    """Werkzeug's handler, which does not close a response if the client resets the connection."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - Werkzeug's name
        """Log nothing."""

    def connection_dropped(self, error: BaseException, environ: dict[str, Any] | None = None) -> None:
        """Close the response, and with it the file that it sends."""
        if environ is not None and _RESPONSE in environ:
            environ[_RESPONSE].close()


_RESPONSE = "tests.response"


def _closable(app: Any) -> Any:
    """Return the WSGI application with responses that the handler can close."""

    def call(environ: dict[str, Any], start_response: Any) -> _Closing:
        environ[_RESPONSE] = _Closing(app(environ, start_response))
        return environ[_RESPONSE]

    return call


class Service:
    """The service, in threads of the test's own process."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.settings = Settings(data_dir=data_dir, checkpoint_seconds=0.0, lease_seconds=1.0, **settings)
        self.types = Registry()
        for job_type in (Steps, Fails, File, Wordy):
            self.types.register(job_type)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: BaseWSGIServer | None = None

    def start(self) -> None:
        self.manager = JobManager(self.settings, self.types)
        self.manager.start()
        self._server = make_server(
            "127.0.0.1", self.port, _closable(create_app(self.manager)), threaded=True, request_handler=_Handler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def end(self) -> None:
        """Shut the server and the manager down. May be called twice."""
        if self._server is None:
            return
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
        self.manager.close()
        self._server = None

    def jobs(self) -> int:
        """Return how many jobs the store holds."""
        with Client(self.url) as client:
            return sum(1 for _ in client.list())


class Proxy:
    """Forwards requests, and cuts or replaces their replies, one after the other, according to a plan."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        #: method and path of each request
        self.requests: list[str] = []
        #: one entry for each coming reply: how many bytes to pass on, or bytes to send instead
        self.plan: list[int | bytes] = []
        #: the same for event streams
        self.plan_of_streams: list[int | bytes] = []
        #: the Last-Event-ID headers of the requests for streams
        self.last_ids: list[str] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._pass_on, args=(connection,), daemon=True).start()

    def _pass_on(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if request := _read_request(connection):
                self._answer(connection, request)

    def _answer(self, connection: socket.socket, request: bytes) -> None:
        first, *headers = request.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")
        self.requests.append(first.removesuffix(" HTTP/1.1"))
        plan = self.plan
        if "text/event-stream" in str(headers):
            plan = self.plan_of_streams
            self.last_ids += [line.split(": ")[1] for line in headers if line.lower().startswith("last-event-id")]
        becomes = plan.pop(0) if plan else 1 << 40
        if isinstance(becomes, bytes):
            connection.sendall(becomes)
            return
        with socket.create_connection(("127.0.0.1", self._to), timeout=20) as server:
            server.sendall(request)
            while chunk := server.recv(65_536):
                connection.sendall(chunk[:becomes])
                becomes = max(0, becomes - len(chunk))
                # Read the rest of a finite reply, so that the server has sent it all; a stream has no end.
                if becomes == 0 and plan is self.plan_of_streams:
                    return


def _read_request(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        chunk = connection.recv(65_536)
        if not chunk:
            return b""
        got += chunk
    head, _, body = got.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < sum(lengths):
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "var")
    service.start()
    yield service
    service.end()


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Client of a service without slots, shared by tests that ignore the jobs of other tests."""
    service = Service(tmp_path_factory.mktemp("quiet"), slots=0)
    service.start()
    with Client(service.url) as client:
        client.get(client.submit("Steps").id)  # opens the connections that the store keeps open
        yield client
    service.end()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    proxy = Proxy(service.port)
    yield proxy
    proxy.close()


@pytest.fixture
def through(proxy: Proxy) -> Iterator[Callable[..., Client]]:
    """Return a function that makes clients of the proxy."""
    with contextlib.ExitStack() as closing:
        yield lambda **options: closing.enter_context(Client(proxy.url, **options))
