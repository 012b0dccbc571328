"""Ports for servers under test.

No port is used twice in a run: a client of an earlier server that reconnects must not reach a later one.
"""

from __future__ import annotations

import os
import socket
from itertools import count

#: Below the ports that the kernel gives to clients. Each process of the test run has a range of its own.
_FIRST, _RANGE = 20_000, 1_500
_numbers = count(_FIRST + _RANGE * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def free_port() -> int:
    """Return a port on which nothing listens, and that was not returned before."""
    while True:
        port = next(_numbers)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
