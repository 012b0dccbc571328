"""The interface of the readers: what an export needs from the database of a dataset.

The readers are in readers/. This module opens nothing, and works without Arrow.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jobmanager.jobs.export.position import Place

if TYPE_CHECKING:
    import pyarrow as pa

#: Prefix of the names of properties in Reader.identity that concern one column. The name of the column follows.
COLUMN = "column "


class ReaderClosed(Exception):
    """The reader was closed while it waited for the database. Open another reader."""


class Reader(Protocol):
    """One open connection to the database of a dataset. Its methods raise DatasetAway and Fatal."""

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns of the table in order, with their exported types."""

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them.

        Text that holds JSON has the metadata {b"jobmanager": b"json"}.
        """

    def check(self) -> None:
        """Raise Fatal, in one sentence, if the dataset cannot be exported exactly.

        Reasons: the table or a column is missing, the key is NULL in some rows or not unique as the reader compares it,
        or the date format cannot be determined. Called once, when an export begins.
        """

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return a sentence for each reason why an export of [begin, end) is slow, such as a missing index."""

    def identity(self) -> dict[str, str]:
        """Return the properties that affect the values or their order, by name: server version, encoding, …

        A later attempt fails if one of these properties has changed. The name of a property of one column begins with
        COLUMN; such a property is ignored if the export does not have that column. The property "date_format" is the
        configured or detected format, written as in the list of datasets. Later readers are opened with that format.
        """

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count the rows of [begin, end) after *after*.

        Returns the number of rows, and None if all of them were counted. If there are many rows, counts only about
        *limit* of them. Then returns the number of counted rows, and the place of the last counted row.
        """

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of [begin, end), by one plain count without an order."""

    def read(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int, max_bytes: int
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows of [begin, end) in the order (date, key), and the place of the last one (None: no rows).

        Returns at most *limit* rows, and at most about *max_bytes* as Arrow stores them, but at least one row. The
        number depends on the rows alone, so that a halt does not change the chunks. Raises Fatal, with the name of the
        column, if a column has changed since the reader was opened.
        """

    def close(self) -> None:
        """Close the connection."""


@runtime_checkable
class ReadsAhead(Protocol):
    """A reader that can also read rows in advance."""

    def expect(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int, max_bytes: int
    ) -> None:
        """Announce the next read, so that its rows may be read in advance. Does not wait.

        Only announced rows are read in advance.
        """


@runtime_checkable
class FixesTypes(Protocol):
    """A reader whose values may differ from the type of their column, and that can give each column one type."""

    def mixed_columns(self, columns: list[str], begin: datetime, end: datetime) -> list[str]:
        """Return the columns with values in [begin, end) that do not fit their type."""

    def fix_types(self, as_text: list[str]) -> None:
        """Fix the types of all later rows: text for the columns *as_text*, and for all others the type in `schema`."""


@runtime_checkable
class Waits(Protocol):
    """A reader that waits for its database in steps, and calls back after each step."""

    #: called repeatedly while the reader waits; may raise, or close the reader. If the reader was closed, its method
    #: either opens it again or raises ReaderClosed.
    on_wait: Callable[[], None] | None
