"""What the tests serve in place of wsgi.py: the same application, with job types that tell what happens to them.

Each job writes lines to DATA_DIR/trace/<job id>, outside its own folder, so that they are there when it was cleaned:
one write with O_APPEND a line, which the kernel keeps whole and in order, whatever process it comes from.
"""

import os
import random
import socket
import threading
import time

from flask import request
from pydantic import BaseModel

from jobmanager import Job, registry
from jobmanager.http import events
from jobmanager.jobs.export import Export

# Small enough for a test to find an export in the middle of many.
Export.chunk_rows = 500
# Short enough for a test to wait until a client that does not read is cut off; see also below.
events.READ_SECONDS = 1.0


class Traced(Job):
    """Writes down its begin, its units of work, its hooks and its end."""

    def tell(self, what: str, unit: int = -1) -> None:
        folder = self.settings.data_dir / "trace"
        folder.mkdir(exist_ok=True)
        line = f"{time.monotonic_ns()} {os.getpid()} {self.attempt} {what} {unit}\n"
        file = os.open(folder / self.job_id, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def is_there(self, name: str) -> bool:
        """Tell whether the test has made this file, which is how it lets a job go on."""
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
class Flaky(Units):
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
