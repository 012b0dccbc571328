"""A token may ask so many times a minute, in all processes together, and not once more."""

from __future__ import annotations

import fcntl
import os
import random
import time
from pathlib import Path

import pytest

from jobmanager.auth import rate_limits


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 600])
def test_a_full_bucket_gives_a_minute_of_requests_at_once_and_then_one_after_the_other(per_minute: int) -> None:
    full_at, now, granted = 0.0, 1000.0, 0
    while True:
        full_at, wait_seconds = rate_limits.after_one(full_at, per_minute=per_minute, now=now)
        if wait_seconds:
            break
        granted += 1

        assert granted <= per_minute

    assert granted == per_minute
    assert wait_seconds == pytest.approx(60 / per_minute)
    assert rate_limits.after_one(full_at, per_minute=per_minute, now=now + wait_seconds * 0.99)[1] > 0
    assert rate_limits.after_one(full_at, per_minute=per_minute, now=now + wait_seconds)[1] == 0


@pytest.mark.parametrize("seed", range(10))
def test_whenever_one_asks_no_stretch_of_time_gives_more_than_its_share(seed: int) -> None:
    chance = random.Random(seed)
    per_minute, full_at, now, granted = chance.randint(1, 50), 0.0, 1000.0, []
    for _ in range(500):
        now += chance.choice([0, 0.01, 1, 20]) * chance.random()
        full_at, wait_seconds = rate_limits.after_one(full_at, per_minute=per_minute, now=now)
        if not wait_seconds:
            granted.append(now)

    for first, begin in enumerate(granted):
        for last in range(first, min(first + 200, len(granted))):
            assert last - first + 1 <= per_minute + (granted[last] - begin) * per_minute / 60 + 1e-6


def test_a_bucket_that_was_left_by_another_start_of_the_machine_is_full() -> None:
    assert rate_limits.after_one(1e6, per_minute=1, now=5.0) == (65.0, 0.0)


def test_many_processes_share_one_bucket(tmp_path: Path) -> None:
    askers = []
    for number in range(3):
        askers.append(os.fork())
        if not askers[-1]:
            granted = sum(rate_limits.take(tmp_path / "rates" / "b", per_minute=100, now=50.0) == 0 for _ in range(80))
            (tmp_path / str(number)).write_text(str(granted))
            os._exit(0)

    assert [os.waitpid(asker, 0)[1] for asker in askers] == [0, 0, 0]
    assert sum(int((tmp_path / str(number)).read_text()) for number in range(3)) == 100


def test_a_process_that_froze_in_the_middle_holds_others_up_for_a_moment_only(tmp_path: Path) -> None:
    with (tmp_path / "bucket").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()

        with pytest.raises(OSError, match="unavailable"):
            rate_limits.take(tmp_path / "bucket", per_minute=1, now=0.0)

        assert time.monotonic() - began < 5
