"""The clocks of a machine: the wall clock for all recorded times, and the boot clock for leases."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_BOOT = datetime(1970, 1, 1, tzinfo=UTC)


def wall_clock() -> datetime:
    """Return the wall-clock time. It jumps if an operator sets the clock."""
    return datetime.now(UTC)


def boot_clock() -> datetime:
    """Return the time since the machine booted, as a time in 1970.

    All processes on the file are on one machine and share this clock. Setting the wall clock does not change it.
    """
    return _BOOT + timedelta(seconds=time.monotonic())
