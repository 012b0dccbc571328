"""As many clients as the limit allows can begin to follow jobs at the same time."""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from jobmanager.engine import change_feed
from jobmanager.errors import TooManyStreams

MOST = 8


def test_none_of_the_allowed_streams_is_refused_when_all_begin_at_once(make_manager: Any) -> None:
    manager = make_manager(streams=MOST, slots=0)
    opened: list[Any] = []
    refused: list[TooManyStreams] = []
    pauses = threading.Semaphore(0)

    def pause(frame: FrameType, event: str, _argument: object) -> None:
        """Pause whenever a function of the feed returns, until the next thread has run into it."""
        if event == "return" and frame.f_code.co_filename == change_feed.__file__:
            pauses.release()
            time.sleep(0.02)

    def follow() -> None:
        sys.setprofile(pause)
        try:
            opened.append(manager.follow())
        except TooManyStreams as error:
            refused.append(error)

    threads = [threading.Thread(target=follow) for _ in range(MOST)]
    for thread in threads:
        thread.start()
        assert pauses.acquire(timeout=10)
    for thread in threads:
        thread.join(10)
    with pytest.raises(TooManyStreams):
        manager.follow()
    for subscription in opened:
        subscription.close()

    assert (len(opened), refused) == (MOST, [])
    manager.follow().close()
