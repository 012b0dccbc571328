"""An iterable that can be iterated more than once without being in memory as a whole. Pure: no I/O of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Repeatable(Generic[T]):
    """An iterable that calls *make* for each iteration. Each call has to return an iterator over the same items."""

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[T]:
        """Return a new iterator."""
        return self._make()


def repeatable(items: Iterable[T]) -> Iterable[T]:
    """Return an iterable that yields the same items each time: a copy, unless *items* is a Repeatable.

    The copy is needed because other iterables may be empty, or may have changed, at the second iteration.
    """
    return items if isinstance(items, Repeatable) else tuple(items)
