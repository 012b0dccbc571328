"""Parse a JSON array piece by piece: decode a window of its text at a time, or more if an item is longer.

Does not validate the items: the caller does.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

#: How many bytes are decoded at once. The items of each window are yielded as one list.
WINDOW = 64 * 1024
#: No literal or escape is longer. So an error this close to the end of a window may be due to the cut.
LONGEST_TOKEN = 16
_SPACES = " \t\r\n"
_SPACE = re.compile(r"[ \t\r\n]*")
_EXPONENT = re.compile(r"\d[eE]")


class ItemTooLong(Exception):
    """An item is longer than allowed; `number` is its index, from 0."""

    def __init__(self, number: int) -> None:
        super().__init__(f"item {number} is too long")
        self.number = number


class ArrayReader:
    """Iterates over the items of a JSON array in UTF-8, a window of text at a time. Can be iterated once only.

    Raises JSONDecodeError with the position in the whole body, UnicodeDecodeError, RecursionError, and ItemTooLong if
    an item has more than *longest* characters.
    """

    def __init__(self, body: bytes | bytearray, decoder: json.JSONDecoder, *, longest: int) -> None:
        self._body = memoryview(body)
        self._decoder = decoder
        self._longest = longest
        self._to_text = codecs.getincrementaldecoder("utf-8-sig")()
        self._read = 0  # bytes decoded so far
        self._text, self._at = "", 0  # the window, and the position in it
        self._lines, self._column = 0, 0  # where the window begins in the body
        self._count = 0  # items read so far
        #: True if the text so far may contain \u escapes, or numbers with exponents: the caller must check such values
        self.has_escapes = self.has_exponents = False

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield lists of items, in order."""
        try:
            yield from self._parts()
        except JSONDecodeError as error:
            if error.lineno == 1:
                error.colno += self._column
            error.lineno += self._lines
            raise

    def _parts(self) -> Iterator[list[Any]]:
        self._expect("[", "Expecting value")
        if self._peek() == "]":
            self._at += 1
        else:
            yield from self._items()
        if self._peek():
            raise JSONDecodeError("Extra data", self._text, self._at)

    def _items(self) -> Iterator[list[Any]]:
        some: list[Any] = []
        window = self._read
        while True:
            self._peek()
            some.append(self._item())
            end = self._expect(",]", "Expecting ',' delimiter")
            if end == "]" or self._read > window:
                yield some
                some = []
                window = self._read
            if end == "]":
                return

    def _item(self) -> Any:
        """Parse the next item and move past it. Decodes more text as long as the item may be incomplete."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - LONGEST_TOKEN
                if not is_cut:
                    raise
                self._check_length(len(self._text))
                if not self._read_window():
                    raise
                continue
            self._check_length(end)
            # Parse again with the next window: a number at the end may be cut. "1e+", cut from "1e+5", is parsed as 1.
            if end > len(self._text) - LONGEST_TOKEN and self._read_window():
                continue
            self._at = end
            self._count += 1
            return value

    def _check_length(self, end: int) -> None:
        if end - self._at > self._longest:
            raise ItemTooLong(self._count)

    def _expect(self, choice: str, otherwise: str) -> str:
        """Move past the next character and return it. If it is not in *choice*, raise JSONDecodeError(*otherwise*)."""
        found = self._peek()
        if not found or found not in choice:
            raise JSONDecodeError(otherwise, self._text, self._at)
        self._at += 1
        return found

    def _peek(self) -> str:
        """Move to the next character that is not white space, and return it; "" at the end."""
        while True:
            found = self._text[self._at : self._at + 1]
            if found and found not in _SPACES:
                return found
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # always matches
            if self._at == len(self._text) and not self._read_window():
                return ""

    def _read_window(self) -> bool:
        """Drop the text that was parsed and decode the next piece. Return False at the end of the body."""
        if self._read == len(self._body):
            return False
        done, left = self._text[: self._at], self._text[self._at :]
        newline = done.rfind("\n")
        self._column = len(done) - newline - 1 if newline >= 0 else self._column + len(done)
        self._lines += done.count("\n")
        # At least double the text that is left. Each try parses a long item from its start, so tries must be few.
        piece = self._body[self._read : self._read + max(WINDOW, len(left))]
        self._read += len(piece)
        self._text = left + self._to_text.decode(piece, final=self._read == len(self._body))
        self._at = 0
        self.has_escapes = self.has_escapes or "\\u" in self._text
        self.has_exponents = self.has_exponents or _EXPONENT.search(self._text) is not None
        return True
