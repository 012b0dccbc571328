"""A JSON array that is read a part at a time holds what it holds when it is read at once, or has the same fault."""

from __future__ import annotations

import json
from json import JSONDecodeError
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobmanager.http import json_arrays
from jobmanager.http.json_arrays import ArrayReader, ItemTooLong

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
spaces = st.text(" \t\r\n", max_size=5)
windows = st.integers(1, 40)


@pytest.mark.parametrize("token", ["\\ud83d\\ude42", "-Infinity"])
def test_no_literal_or_escape_is_longer_than_the_reader_expects(token: str) -> None:
    assert len(token) <= json_arrays.LONGEST_TOKEN


def read(body: bytes, window: int, *, longest: int = 10**6) -> Any:
    """Return the items, or what is wrong and where."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "WINDOW", window)
        try:
            return [item for some in ArrayReader(body, json.JSONDecoder(), longest=longest) for item in some]
        except JSONDecodeError as error:
            return error.msg, error.lineno, error.colno


def read_at_once(body: bytes) -> Any:
    try:
        return json.loads(body)
    except JSONDecodeError as error:
        return error.msg, error.lineno, error.colno


@given(items=st.lists(values, max_size=8), space=spaces, window=windows, is_ascii=st.booleans())
@example(items=[1.5, 1e300, 2.5e-30], space="", window=2, is_ascii=True)
@example(items=[123456, -0.5e10, "\U0001f642", True], space="", window=1, is_ascii=True)
def test_items_are_the_same_whatever_the_size_of_a_part(
    items: list[Any], space: str, window: int, is_ascii: bool
) -> None:
    parts = f"{space},{space}".join(json.dumps(item, ensure_ascii=is_ascii) for item in items)
    body = f"{space}[{space}{parts}{space}]{space}".encode()

    assert read(body, window) == items
    assert read(b"\xef\xbb\xbf" + body, window) == items


@given(
    items=st.lists(values, min_size=1, max_size=5),
    cut=st.integers(0, 200),
    put=st.text(']},[{:"x1- \n'),
    window=windows,
)
@example(items=[1], cut=2, put=",", window=1)
@example(items=[[]], cut=3, put=" \n x", window=2)
def test_a_fault_is_found_at_the_same_place(items: list[Any], cut: int, put: str, window: int) -> None:
    text = json.dumps(items, indent=1, ensure_ascii=False)
    body = f"[{text[1 : cut + 1]}{put}{text[cut + 1 :]}".encode()

    assert read(body, window) == read_at_once(body)


@pytest.mark.parametrize("window", [1, 7, 1000])
def test_an_item_that_is_too_long_is_told_by_its_number_before_all_of_it_is_read(window: int) -> None:
    body = b'[1, "' + b"x" * 200 + b'", 3]'

    with pytest.raises(ItemTooLong) as refused:
        read(body, window, longest=100)
    assert refused.value.number == 1
    assert read(body, window, longest=202) == json.loads(body)


def test_what_is_not_utf_8_is_an_error() -> None:
    with pytest.raises(UnicodeDecodeError):
        read(b'["\xff"]', 1000)
