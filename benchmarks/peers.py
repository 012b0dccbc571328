"""The peers: an environment of their own (`make .venv-peers`), and the servers that they need."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.frame import ROOT

#: The interpreter of the environment that the peers are installed in.
PYTHON = Path(os.environ.get("PEERS", ROOT / ".venv-peers")) / "bin" / "python"
