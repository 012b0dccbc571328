"""An iterable that can be iterated more than once without being in memory as a whole. Pure: no I/O of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Repeatable(Generic[T]):
    """Calls *make* for a new iterator each time. All of them have to yield the same items."""

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[T]:
        """Return a new iterator."""
        return self._make()


def repeatable(items: Iterable[T]) -> Iterable[T]:
    """Return an iterable that yields the same items each time: a copy, unless *items* is a Repeatable.

    Other iterables may be empty at the second iteration, or may have changed.
    """
    return items if isinstance(items, Repeatable) else tuple(items)
