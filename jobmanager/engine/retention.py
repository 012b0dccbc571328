"""Remove old finished jobs, with their changes, logs and files, and old idempotency keys."""

from __future__ import annotations

import shutil
import time
from datetime import datetime, timedelta
from pathlib import Path

from jobmanager.config import Settings
from jobmanager.store import Store

#: How long idempotency keys are kept; the promise is one day.
_KEEP_KEYS = timedelta(days=2)


def prune(store: Store, data_dir: Path, *, before: datetime | None, keep: int | None, seconds: float) -> int:
    """Remove jobs that finished before *before*, and those beyond the newest *keep*. Return their number.

    If a limit is None, it does not apply. Stops after about *seconds*. Works in small transactions, so that other
    writers hardly wait. A download under way keeps its file open, and continues to its end.
    """
    deadline, removed = time.monotonic() + seconds, 0
    while time.monotonic() < deadline and (ids := store.prune(before=before, keep=keep)):
        for job_id in ids:
            shutil.rmtree(data_dir / "jobs" / job_id, ignore_errors=True)
        removed += len(ids)
    return removed


def prune_as_set(store: Store, settings: Settings, *, seconds: float) -> None:
    """Remove old idempotency keys, then finished jobs that the settings do not keep. Stops after about *seconds*."""
    now = store.now()
    store.forget_keys(before=now - _KEEP_KEYS)
    before = now - timedelta(days=settings.keep_days) if settings.keep_days else None
    prune(store, settings.data_dir, before=before, keep=settings.keep_jobs or None, seconds=seconds)
