"""Prepare late imports of compiled libraries, so that they do not hold up other threads."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

_BLOCK = 1024 * 1024


def preload_libraries(*packages: str) -> None:
    """Read the compiled libraries of packages into the page cache before they are imported.

    No other thread runs while a library is loaded. Loading it from disk takes a third of a second. Reading it first
    takes as long, but other threads keep running. Skips packages that are already imported.
    """
    block = bytearray(_BLOCK)
    for name in set(packages) - sys.modules.keys():
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for library in Path(folder).glob("*.so*"):
                # A file that cannot be read may not be needed. If it is, the import fails with the reason.
                with suppress(OSError), library.open("rb", buffering=0) as file:
                    while file.readinto(block):
                        pass
