"""What the tests serve in place of wsgi.py: the same application, with job types that tell what happens to them.

Each job writes lines to trace/<job id> beside DATA_DIR, so that they are there when it was cleaned, and when its volume
is full: one write with O_APPEND a line, which the kernel keeps whole and in order, whatever process it comes from.
The file `clock` beside DATA_DIR, if there is one, says by how many seconds the wall clock is wrong.
"""

import errno
import os
import random
import re
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flask import request
from pydantic import BaseModel

from jobmanager import Job, registry
from jobmanager.http import client_connection
from jobmanager.jobs.export.job import Export
from jobmanager.store.sqlite import clocks

# Small enough for a test to find an export in the middle of many.
Export.chunk_rows = int(os.environ.get("SERVED_CHUNK_ROWS", "500"))
# Short enough for a test to wait until a client that does not read is cut off; see also below.
client_connection.READ_SECONDS = 1.0


def _wrong_clock() -> datetime:
    """Return what the wall clock says after the step that the test had it make."""
    try:
        step = float(_CLOCK.read_text(encoding="ascii"))
    except FileNotFoundError:
        step = 0.0
    return datetime.now(UTC) + timedelta(seconds=step)


_CLOCK = Path(os.environ.get("JOBMANAGER_DATA_DIR", "var")).absolute().parent / "clock"
# The only reader of the wall clock. Not by libfaketime: 0.9.10 breaks time.sleep where the monotonic clock is spared.
clocks.wall_clock = _wrong_clock


class Traced(Job):
    """Writes down its begin, its units of work, its hooks and its end."""

    def tell(self, what: str, unit: int = -1) -> None:
        folder = self.settings.data_dir.absolute().parent / "trace"
        folder.mkdir(exist_ok=True)
        line = f"{time.monotonic_ns()} {os.getpid()} {self.attempt} {what} {unit}\n"
        file = os.open(folder / self.job_id, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def is_there(self, name: str) -> bool:
        """Return True if the test has made this file, which lets the job continue."""
        return (self.settings.data_dir / name).exists()

    def halt(self) -> None:
        self.tell("halt")

    def resume(self) -> None:
        self.tell("resume")

    def clean(self) -> None:
        self.tell("clean")
        super().clean()
        self.tell("cleaned")


@registry.register
class Units(Traced):
    """Appends units to a file, exactly once each: it cuts the file to what the cursor claims before it goes on."""

    class Args(BaseModel):
        units: int = 100
        seconds: float = 0.01
        tag: str = ""

    def start(self) -> dict[str, int]:
        first, length = self.cursor or (0, 0)
        self.tell("begin", first)
        with open(self.workdir / "units", "ab", buffering=0) as self.file:
            self.file.truncate(length)
            for unit in range(first, self.args.units):
                self.wait(self.args.seconds)
                self.tell("tick", unit)
                self.work(unit)
                self.file.write(f"{unit}\n".encode())
                self.checkpoint([unit + 1, self.file.tell()], done=unit + 1, total=self.args.units)
            os.fsync(self.file.fileno())
        self.tell("end")
        return {"units": self.args.units}

    def work(self, unit: int) -> None:
        """Do nothing more; other types do."""

    def flush(self) -> None:
        os.fsync(self.file.fileno())


@registry.register
class Fenced(Units):
    """Writes units to a file of each attempt's own: no attempt that was frozen and lost its job can spoil another's.

    Its cursor says how many units are done, in how many bytes of which file, and which attempt says so.
    """

    def start(self) -> dict[str, int | str]:
        first, length, earlier, _attempt = self.cursor or (0, 0, None, None)
        self.tell("begin", first)
        own = f"units-{self.attempt}"
        with open(self.workdir / own, "wb", buffering=0) as self.file:
            if earlier is not None:
                self.append((self.workdir / earlier).read_bytes()[:length], length)
            for unit in range(first, self.args.units):
                self.wait(self.args.seconds)
                self.tell("tick", unit)
                self.work(unit)
                line = f"{unit}\n".encode()
                self.append(line, len(line))
                cursor = [unit + 1, self.file.tell(), own, self.attempt]
                self.checkpoint(cursor, done=unit + 1, total=self.args.units)
            os.fsync(self.file.fileno())
        self.tell("end")
        return {"units": self.args.units, "file": own}

    def append(self, data: bytes, length: int) -> None:
        """Append bytes, all of them or none that count."""
        assert len(data) == length, "what the cursor claims is not there"
        if self.file.write(data) != length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@registry.register
class Flaky(Fenced):
    """Fails now and then, and so does its clean."""

    max_attempts = 3

    def work(self, unit: int) -> None:
        if random.random() < 0.05:
            raise OSError("not today")

    def clean(self) -> None:
        if random.random() < 0.2:
            raise OSError("not yet")
        super().clean()


@registry.register
class SlowClean(Units):
    """Cannot be cleaned before the test allows it."""

    def clean(self) -> None:
        self.tell("clean")
        while not self.is_there("may-clean"):
            time.sleep(0.005)
        Traced.clean(self)


@registry.register
class Deaf(Traced):
    """Never reaches a checkpoint before the test allows it."""

    def start(self) -> dict[str, int]:
        self.tell("begin")
        while not self.is_there("may-end"):
            time.sleep(0.005)
            self.tell("tick")
        return {"attempt": self.attempt}


@registry.register
class BigFile(Job):
    """Makes a file of so many mebibytes."""

    class Args(BaseModel):
        mebibytes: int

    def start(self) -> dict[str, str]:
        (self.workdir / "big").write_bytes(os.urandom(1024 * 1024) * self.args.mebibytes)
        return {"file": "big"}


@registry.register
class Hog(Traced):
    """Holds the interpreter's lock in its first attempt, in C code that nothing interrupts."""

    def start(self) -> dict[str, int]:
        self.tell("begin")
        if self.attempt == 1:
            re.fullmatch("(a|aa)+", "a" * 200 + "b")
        return {"attempt": self.attempt}


@registry.register
class Deadly(Traced):
    """Kills the process that runs it."""

    def start(self) -> None:
        self.tell("begin")
        os.kill(os.getpid(), 9)
        threading.Event().wait(10)


from wsgi import app  # noqa: E402 - after the job types are registered


@app.before_request
def have_little_room() -> None:
    """Keep what waits for a client of a stream small: the kernel would take some megabytes."""
    if request.path.endswith("/events"):
        request.environ["gunicorn.socket"].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
