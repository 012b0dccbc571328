"""Processes on one SQLite file know at once when one of them has died."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from jobmanager.core.states import Status
from jobmanager.core.values import NewJob
from jobmanager.store import Store

CLAIM_AND_WAIT = """
import sys
from jobmanager.store import Store
store = Store(sys.argv[1], lease_seconds=3600)
print(len(store.claim(1, types=["Simple"], max_running={})), flush=True)
sys.stdin.read()
"""


def test_a_job_is_taken_over_at_once_when_its_process_is_killed_however_long_its_lease(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    store = Store(url)
    store.add([NewJob(id="1", type="Simple", args={})], actor="test")
    arguments = [sys.executable, "-c", CLAIM_AND_WAIT, url]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert store.expire() == [], "its process lives"

        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

        assert [applied.job.status for applied in store.expire()] == [Status.SUBMITTED]
    store.close()


def test_a_process_that_leaves_is_forgotten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    store, other = Store(url), Store(url)

    other.close()

    assert [path.name for path in (tmp_path / "jobs.db-owners").iterdir()] == [store.owner]
    store.close()
