"""Read an endless iteration in a thread, and check the updates of a followed job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from jobmanager.client import Change, Job, JobProgress, LogLine


class Listener:
    """Reads an iteration in a thread; tests read *got* meanwhile."""

    def __init__(self, updates: Iterator[Any]) -> None:
        self.got: list[Any] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(updates,), daemon=True)
        self._thread.start()

    def _read(self, updates: Iterator[Any]) -> None:
        try:
            for update in updates:
                self.got.append(update)
        except Exception as error:
            self.error = error

    def join(self, seconds: float = 20) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), self.got[-5:]
        if self.error is not None:
            raise self.error


def assert_whole(updates: list[Any], job: Job) -> None:
    """Check that a job was followed from its first step until it was at rest, without a gap."""
    changes = [update for update in updates if isinstance(update, Change)]
    known = [change.seq for change in job.changes()]
    assert [change.seq for change in changes] == known[-len(changes) :]
    steps = [update.message for update in updates if isinstance(update, LogLine) and update.message.startswith("step")]
    assert steps == [f"step {step}" for step in range(len(steps))]
    progress = [update.done for update in updates if isinstance(update, JobProgress) and update.done is not None]
    assert progress == sorted(progress)
    assert updates[-1].etag == job.refresh().etag
    assert sum(isinstance(update, Job) for update in updates) == 1
