"""Compiled libraries that are imported late, while other threads are at work."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

_BLOCK = 1024 * 1024


def read_libraries(*packages: str) -> None:
    """Have the kernel hold the compiled libraries of packages that are to be imported next.

    While a library is loaded no other thread runs, and if a disk has to be waited for, that takes a third of a second.
    This takes as long, but keeps nobody else waiting. Does nothing for what is imported already.
    """
    block = bytearray(_BLOCK)
    for name in set(packages) - sys.modules.keys():
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for library in Path(folder).glob("*.so*"):
                # What cannot be read may not be needed; if it is, the import says so.
                with suppress(OSError), library.open("rb", buffering=0) as file:
                    while file.readinto(block):
                        pass
