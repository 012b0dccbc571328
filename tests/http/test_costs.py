"""A body that is wrong in many places costs little memory, and its answer is short."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from costs import CASES, OF_LARGE_JOBS, STORED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
#: The body itself is there twice while it is read, once in the test's client.
MOST_GROWN_MEBIBYTES = 100
LONGEST_ANSWER = 100_000
#: Generous: on a free machine all of them take a minute.
MOST_SECONDS = 500


@pytest.fixture(scope="module")
def costs() -> dict[str, dict[str, Any]]:
    """Return what each case costs, measured in a process of its own."""
    command = [sys.executable, str(Path(__file__).parent / "costs.py")]
    path = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=path, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return {cost["name"]: cost for cost in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_body_costs_little_memory_and_gets_a_short_answer(costs: dict[str, Any], name: str) -> None:
    cost = costs[name]

    assert cost["status"] == 422
    assert cost["grown"] <= MOST_GROWN_MEBIBYTES + cost["body"]
    assert cost["bytes"] <= LONGEST_ANSWER


@pytest.mark.parametrize("name", STORED)
def test_the_largest_batches_are_stored_in_little_more_memory_than_their_body(costs: dict[str, Any], name: str) -> None:
    cost = costs[name]

    assert cost["status"] == 202
    assert cost["body"] > 55
    assert cost["grown"] <= MOST_GROWN_MEBIBYTES


@pytest.mark.parametrize("name", OF_LARGE_JOBS)
def test_large_jobs_are_listed_and_halted_without_being_read(costs: dict[str, Any], name: str) -> None:
    cost = costs[name]

    assert cost["status"] == 200
    assert cost["grown"] <= 20
    assert cost["bytes"] <= 200 * 1000, "200 jobs without their arguments"
