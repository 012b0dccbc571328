"""Keep the garbage collector from scanning all that was imported: it stays for good.

Measured with wrk on 2 cores, medians of 5 alternating rounds: the slowest hundredth of submissions to one worker takes
22 ms; without this, 35 ms.
"""

from __future__ import annotations

import gc


def freeze() -> None:
    """Collect garbage, and leave all objects that exist out of later collections."""
    gc.collect()
    gc.freeze()
