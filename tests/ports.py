"""Ports for servers under test.

No port is used twice, in this run or in another one at the same time: a client of an earlier server that reconnects
must not reach a later one, nor a test the server of another run.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from itertools import count
from pathlib import Path

#: Below the ports that the kernel gives to clients.
_ports = count(20_000)
#: Each process locks the byte at the number of each port that it uses, until it ends.
_taken = os.open(Path(tempfile.gettempdir()) / f"jobmanager-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)


def free_port() -> int:
    """Return a port on which nothing listens, and that no test process has used that still runs."""
    return next(port for port in _ports if _is_ours(port) and _is_unused(port))


def _is_ours(port: int) -> bool:
    try:
        fcntl.lockf(_taken, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_unused(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
