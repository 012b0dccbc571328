"""flush() is called while what it flushes is open, and never after."""

from __future__ import annotations

from typing import Any

from jobmanager import Job
from jobmanager.registry import Registry


def test_a_job_may_close_its_file_before_start_returns(manager: Any, types: Registry) -> None:
    @types.register
    class Writer(Job):
        def start(self) -> dict[str, int]:
            with open(self.workdir / "lines", "a") as self.file:
                for unit in range(3):
                    self.file.write(f"{unit}\n")
                    self.checkpoint(cursor=unit + 1, done=unit + 1)
            return {"units": 3}

        def flush(self) -> None:
            self.file.flush()

    job = manager.submit("Writer")

    job = manager.wait(job.id, unless=("submitted", "running"), wait=10)

    assert (job.status, job.error) == ("completed", None)
    assert (job.checkpoint.cursor, job.checkpoint.done) == (3, 3)
