"""Run the benchmarks, in turns with the peers, and write docs/BENCHMARKS.md from the results.

    python -m benchmarks [NAME …] [--quick]

`--quick` only shows that the benchmarks still run: it runs one short round of each, and discards the results.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import peers
from benchmarks.frame import NAMES, RESULTS


def main() -> None:
    """Run the benchmarks that the command line names."""
    # As with Ctrl-C: end the started servers and remove their folders.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; by default all")
    parser.add_argument("--quick", action="store_true", help="only show that they still run; discard the results")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as aside:
        kept_in = Path(aside) / "benchmarks" if asked.quick else RESULTS
        for name in asked.names or NAMES:
            began = time.monotonic()
            print(f"{name} … (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
            result = importlib.import_module(f"benchmarks.{name}").measure(quick=asked.quick)
            result.show()
            result.keep(kept_in)
            print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        subprocess.run([peers.PYTHON, "-m", "benchmarks.report", kept_in], check=True)


if __name__ == "__main__":
    main()
