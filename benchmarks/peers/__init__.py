"""The peers: an environment of their own (`make .venv-peers`), and one small program for each of them.

What is in here runs in either environment, but for the modules `of_…`, each of which is a peer's.
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
    """Have a peer take up and run so many jobs that do nothing; returns how many a second it did of either."""
    return ask([PYTHON, "-m", "benchmarks.peers", peer, way, str(jobs)], env={"BROKER": broker})


def twice(command: list[str]) -> list[str]:
    """Return the command that runs another in two processes."""
    return ["sh", "-c", '"$@" & "$@" & wait', "sh", *command]


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of packages that are installed there."""
    told: dict[str, str] = dict(ask([PYTHON, "-c", _VERSIONS, *packages]))  # type: ignore[arg-type]
    return told
