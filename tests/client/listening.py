"""Read an endless iteration in a thread, and check the signs of a followed job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from jobmanager.client import Change, Job, JobProgress, LogLine


class Listener:
    """Reads an iteration in a thread; tests read *got* meanwhile."""

    def __init__(self, signs: Iterator[Any]) -> None:
        self.got: list[Any] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(signs,), daemon=True)
        self._thread.start()

    def _read(self, signs: Iterator[Any]) -> None:
        try:
            for sign in signs:
                self.got.append(sign)
        except Exception as error:
            self.error = error

    def join(self, seconds: float = 20) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), self.got[-5:]
        if self.error is not None:
            raise self.error


def assert_whole(signs: list[Any], job: Job) -> None:
    """Check that a job was followed from its first step until it was at rest, without a gap."""
    changes = [sign for sign in signs if isinstance(sign, Change)]
    known = [change.seq for change in job.changes()]
    assert [change.seq for change in changes] == known[-len(changes) :]
    steps = [sign.message for sign in signs if isinstance(sign, LogLine) and sign.message.startswith("step")]
    assert steps == [f"step {step}" for step in range(len(steps))]
    progress = [sign.done for sign in signs if isinstance(sign, JobProgress) and sign.done is not None]
    assert progress == sorted(progress)
    assert signs[-1].etag == job.refresh().etag
    assert sum(isinstance(sign, Job) for sign in signs) == 1
