"""What a client or a job hands over is valid JSON, of bounded size and depth; older values can still be shown."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmanager.core.json_values import MAX_BYTES, MAX_DEPTH, check_json, encode, is_deeper, showable

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


def nested(levels: int, *, innermost: Any = 1) -> Any:
    """Return a value of so many arrays and objects inside each other."""
    value = innermost
    for level in range(levels):
        value = {"in": value} if level % 2 else [value]
    return value


def endless() -> list[Any]:
    """Return a list that contains itself."""
    items: list[Any] = []
    items.append(items)
    return items


def doubled(times: int) -> list[Any]:
    """Return a list that contains another one twice, which does so too: 2 ** times in all."""
    items: list[Any] = ["x"]
    for _ in range(times):
        items = [items, items]
    return items


def storable(value: Any) -> bool:
    try:
        encode(value).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(value=VALUES)
def test_json_passes_if_and_only_if_it_can_be_stored(value: Any) -> None:
    if storable(value):
        check_json(value, "it")
    else:
        with pytest.raises(ValueError, match=r"^it is not valid JSON: "):
            check_json(value, "it")


@pytest.mark.parametrize("value", [10**400, (1, (2,)), {1: True}, "ä" * 1000, [], {"a": 2**63 + 1}])
def test_json_passes(value: Any) -> None:
    check_json(value, "it")


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("-inf"), {1}, b"x", object(), "\ud800", {"\ud800": 1}, {(1, 2): 3}, [10**5000]],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_json_is_named(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^the cursor is not valid JSON: "):
        check_json(value, "the cursor")


def test_json_of_the_greatest_depth_passes() -> None:
    check_json(nested(MAX_DEPTH), "args")
    check_json(nested(MAX_DEPTH - 1, innermost=[]), "args")
    check_json(nested(MAX_DEPTH - 1, innermost={}), "args")


@pytest.mark.parametrize(
    "value",
    [nested(MAX_DEPTH + 1), nested(MAX_DEPTH, innermost=()), nested(960), nested(100_000), endless()],
    ids=["one level", "a tuple", "960 levels", "100,000 levels", "endless"],
)
def test_json_that_is_deeper_is_refused_with_the_limit(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^args is nested more than 100 levels deep"):
        check_json(value, "args")


#: Makes a value of exactly so many bytes as JSON.
SHAPES: dict[str, Any] = {
    "text": lambda size: "x" * (size - 2),
    "text outside ASCII": lambda size: "x" + "é" * ((size - 3) // 2),
    "escaped text": lambda size: "x" * 4 + "\u0001" * ((size - 6) // 6),
    "numbers": lambda size: [10, *[1] * ((size - 4) // 2)],
    "an object": lambda size: {"k": "x" * (size - 8)},
    "a name": lambda size: {"x" * (size - 6): 1},
    "deep text": lambda size: [["x" * (size - 6)]],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_json_of_the_greatest_size_passes_and_one_byte_more_is_refused(shape: str) -> None:
    largest = next(
        value
        for size in itertools.count(MAX_BYTES, -1)
        if len(encode(value := SHAPES[shape](size)).encode()) <= MAX_BYTES
    )
    larger = next(
        value
        for size in itertools.count(MAX_BYTES + 1)
        if len(encode(value := SHAPES[shape](size)).encode()) > MAX_BYTES
    )

    check_json(largest, "the result")
    with pytest.raises(ValueError, match=r"^the result is larger than 1 MiB as JSON\. Store the data elsewhere"):
        check_json(larger, "the result")


def test_an_object_of_short_escaped_texts_passes_only_within_the_limit() -> None:
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        check_json({str(number): "\u0001" * 1024 for number in range(200)}, "args")


def test_a_value_that_contains_another_one_many_times_is_refused_without_writing_it() -> None:
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        check_json(doubled(90), "the result")
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        check_json(["x" * MAX_BYTES] * 100_000, "the result")


@pytest.mark.parametrize(("value", "depth"), [(1, 0), ("[[", 0), ([], 1), ({"a": []}, 2), ([1, [2, {"a": 3}]], 3)])
def test_depth_counts_arrays_and_objects_inside_each_other(value: Any, depth: int) -> None:
    assert not is_deeper(value, depth)
    assert depth == 0 or is_deeper(value, depth - 1)


@given(value=VALUES)
def test_a_value_within_the_limits_is_shown_as_it_is(value: Any) -> None:
    assert showable(value) is value


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 254, 960])
def test_what_is_nested_too_deep_is_shown_as_a_note(levels: int) -> None:
    shown = showable({"deep": nested(levels), "name": "x"})

    assert not is_deeper(shown, MAX_DEPTH)
    assert shown["name"] == "x"
    assert "left out: nested more than 100 levels deep" in json.dumps(shown)
