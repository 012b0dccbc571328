"""The name under which a process owns jobs, and how long its leases last.

Reads clocks and names of this machine; writes nothing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

_MACOS_BOOT_ID = ("sysctl", "-n", "kern.bootsessionuuid")


class Owner:
    """This process as an owner of jobs."""

    def __init__(self, name: str, lease: timedelta, lease_now: Callable[[], datetime]) -> None:
        self.name = name
        self._lease = lease
        self._lease_now = lease_now

    def lease_end(self) -> datetime:
        """Return the end of a lease that is taken or renewed now, by the lease clock."""
        return self._lease_now() + self._lease


def new_owner_name() -> str:
    """Return a name for this process. It has a random part: a later process with the same pid has another name."""
    return f"{owner_name_prefix(os.getpid())}{uuid.uuid4().hex[:8]}"


def owner_name_prefix(pid: int) -> str:
    """Return the prefix of all names of a process.

    The pid namespace distinguishes processes of two containers with the same host name and process id.
    """
    return f"{boot_id()}:{socket.gethostname()}:{pid}:{_pid_namespace()}-"


@cache
def boot_id() -> str:
    """Return an identifier of the current boot of this machine. The names of all its processes begin with it.

    If the system has none, returns a random one in each process, so that no other process seems to be of this boot.
    """
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    found = ""
    with suppress(OSError):
        found = subprocess.run(_MACOS_BOOT_ID, capture_output=True, text=True, check=False).stdout
    return (found.strip() or uuid.uuid4().hex)[:8].lower()


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "0"
