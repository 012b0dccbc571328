"""What can be gone through more than once without being in memory as a whole. Pure: no I/O of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Repeatable(Generic[T]):
    """Asks *make* for a new iterator each time. Each of them has to yield the same."""

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[T]:
        """Begin again."""
        return self._make()


def repeatable(items: Iterable[T]) -> Iterable[T]:
    """Return the items so that they can be gone through again: a copy, unless they are a Repeatable.

    Other iterables may end with their first pass, or change before the second.
    """
    return items if isinstance(items, Repeatable) else tuple(items)
