"""What some requests cost a service in memory: run as a program, which prints a line of JSON for each of CASES."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from flask.testing import FlaskClient

from jobmanager import JobManager, Settings
from jobmanager.http import create_app
from jobmanager.registry import Registry

MIB = 1024 * 1024
_EXPORT = b'{"type": "Export", "args": {"from_date": "2024-01-01", "to_date": "2024-01-02", '


def repeated(item: bytes, size: int, head: bytes = b"[", tail: bytes = b"]") -> bytes:
    """Return an array, or what begins and ends otherwise, that is filled up with an item."""
    number = (size - len(head) - len(tail)) // (len(item) + 1)
    return head + b",".join([item] * number) + tail


def numbered(text: str, size: int, head: bytes, tail: bytes) -> bytes:
    """Return an object that is filled up with fields of different names."""
    fields = [(text % number).encode() for number in range(size // (len(text) + 6))]
    return head + b",".join(fields) + tail


#: The path, and what makes the body.
CASES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "numbers in a batch": ("/jobs/batch", lambda: repeated(b"1", MIB)),
    "lines in a batch": ("/jobs/batch", lambda: b"1\n" * (MIB // 2)),
    "statuses": ("/jobs/halt", lambda: repeated(b'"x"', MIB, b'{"status": [', b"]}")),
    "labels of a filter": ("/jobs/halt", lambda: repeated(b'"a:b"', MIB, b'{"label": [', b"]}")),
    "columns": ("/jobs", lambda: repeated(b"1", MIB, _EXPORT + b'"columns": [', b"]}}")),
    "wrong labels": ("/jobs", lambda: numbered('"a%d":1', MIB, b'{"type": "Simple", "labels": {', b"}}")),
    "unknown fields": ("/jobs", lambda: numbered('"a%d":1', MIB, b'{"type": "Simple", ', b"}")),
    "unknown arguments": ("/jobs", lambda: numbered('"a%d":1', MIB, _EXPORT, b"}}")),
    "long names": ("/jobs", lambda: numbered('"%d' + "\u00e9" * 4000 + '":1', MIB // 2, b"{", b"}")),
    "a long time": ("/jobs/halt", lambda: b'{"submitted_after": "' + b"T00:00" * 170_000 + b'"}'),
    "64 MiB of numbers": ("/jobs/batch", lambda: repeated(b"1", 64 * MIB)),
    "64 MiB of lines": ("/jobs/batch", lambda: b"1\n" * (32 * MIB)),
    "16 MiB of good jobs": ("/jobs/batch", lambda: repeated(b'{"type": "Simple"}', 16 * MIB)),
}

_SIMPLE = b'{"type":"Simple","args":{"note":%s}}'
_LARGE = _SIMPLE % (b'"%s"' % (b"x" * (MIB - 200)))
_LABELS = b",".join(b'"%d":"%s"' % (number, b"x" * 14) for number in range(30))


def _with_large(*jobs: bytes) -> bytes:
    """Return the lines of a batch of 63 MiB that has these jobs, and large ones."""
    small = b"\n".join(jobs)
    return b"\n".join([small] + [_LARGE] * (63 - len(small) // MIB))


#: Batches near the bound of 64 MiB that are stored: what makes the body.
STORED: dict[str, Callable[[], bytes]] = {
    "nearly as many jobs as there may be": lambda: repeated(_SIMPLE % (b'"%s"' % (b"x" * 630)), 63 * MIB),
    "large texts": _with_large,
    "jobs of many small objects": lambda: _with_large(*[_SIMPLE % repeated(b"{}", MIB - 200)] * 2),
    "jobs of many labels": lambda: _with_large(*[b'{"type":"Simple","labels":{%s}}' % _LABELS] * 3000),
}


def _mebibytes(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if name in line)
    return int(line.split()[1]) // 1024


#: Requests to a store with 200 jobs whose arguments have a mebibyte each: method, path, body.
OF_LARGE_JOBS: dict[str, tuple[str, str, bytes]] = {
    "a page of large jobs": ("GET", "/jobs?limit=500", b""),
    "a search for large jobs": ("GET", "/jobs?limit=500&q=Simple&status=submitted", b""),
    "halting large jobs": ("POST", "/jobs/halt", b'{"all": true}'),
}


def main() -> None:
    """Send each request to a service in this process, and print what it cost."""
    with (
        tempfile.TemporaryDirectory() as folder,
        JobManager(Settings(data_dir=Path(folder), slots=0), Registry()) as manager,
    ):
        client = create_app(manager).test_client()
        client.post("/jobs/batch", json=[{"type": "Simple"}, {"type": "Export"}])  # makes what is made once
        for name, (path, make) in CASES.items():
            _print_cost(client, name, "POST", path, make())
        large = b'{"type": "Simple", "args": {"note": "%s"}}' % (b"x" * (MIB - 100))
        for _ in range(4):
            assert client.post("/jobs/batch", data=b"\n".join([large] * 50)).status_code < 300
        for name, (method, path, body) in OF_LARGE_JOBS.items():
            _print_cost(client, name, method, path, body)
        for name, make in STORED.items():
            _print_cost(client, name, "POST", "/jobs/batch", make())


def _print_cost(client: FlaskClient, name: str, method: str, path: str, body: bytes) -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = _mebibytes("VmRSS")
    answer = client.open(path, method=method, data=body)
    cost = {"status": answer.status_code, "bytes": len(answer.data), "body": len(body) // MIB}
    print(json.dumps({"name": name, "grown": _mebibytes("VmHWM") - before} | cost), flush=True)


if __name__ == "__main__":
    main()
