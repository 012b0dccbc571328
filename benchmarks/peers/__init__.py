"""The peers: other job queues, in their own environment (`make bench` makes it), and one small program for each.

The modules `of_…` run in the environment of the peers only, the other modules in both.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.frame import ROOT, ask

#: The folder of the environment that the peers are installed in.
FOLDER = Path(os.environ.get("PEERS", ROOT / ".venv-peers"))
#: Its interpreter.
PYTHON = FOLDER / "bin" / "python"

_VERSIONS = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def completed(peer: str, way: str, jobs: int, broker: str) -> dict[str, float]:
    """Let a peer enqueue and run jobs that do nothing; return how many a second it did of each."""
    return ask([PYTHON, "-m", "benchmarks.peers", peer, way, str(jobs)], env={"BROKER": broker})


def twice(command: list[str]) -> list[str]:
    """Return a command that runs *command* in two processes."""
    return ["sh", "-c", '"$@" & "$@" & wait', "sh", *command]


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of packages in the environment of the peers."""
    told: dict[str, str] = dict(ask([PYTHON, "-c", _VERSIONS, *packages]))  # type: ignore[arg-type]
    return told
