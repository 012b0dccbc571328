"""Keep the garbage collector from scanning imported modules, which are never freed.

Measured with wrk on 2 cores, medians of 5 alternating rounds: the slowest hundredth of submissions to one worker takes
22 ms; without this, 35 ms.
"""

from __future__ import annotations

import gc


def freeze() -> None:
    """Collect garbage once, and exclude the remaining objects from all later collections."""
    gc.collect()
    gc.freeze()
