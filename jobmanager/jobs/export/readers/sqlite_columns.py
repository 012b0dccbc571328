"""How to select the columns of a SQLite table, so that every value arrives unchanged. Pure.

In SQLite each value has its own type. But the driver gives all values of a column in a chunk one type, the widest. So
each column is selected in a form that either is exact, or shows that values may have changed. In the second case, the
column is selected again in the form ANY, which is always exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pyarrow as pa
import pyarrow.compute as pc

from jobmanager.jobs.export import mixed_columns

_TEXT_WORDS = ("CHAR", "CLOB", "TEXT")
_REAL_WORDS = ("REAL", "FLOA", "DOUB")
#: Results of unicode(typeof(x)).
_CODES = {"integer": 105, "real": 114, "text": 116, "blob": 98}
#: Replaces the code of a value that is too large to be read before its size is known.
_TOO_LARGE = -1


class Form(Enum):
    """The way in which a column is selected."""

    INTEGER = "integers; or numbers, if all are small"
    REAL = "reals"
    #: for a column that converts numbers to text
    TEXT = "texts"
    TEXT_OR_NUMBER = "texts, where numbers may be"
    ANY = "values of any type"


class Unfit(Exception):
    """The rows cannot be read in this way.

    If *is_large*, read the sizes of the rows first. Otherwise read the column in the form ANY.
    """

    def __init__(self, *, is_large: bool) -> None:
        super().__init__()
        self.is_large = is_large


class NotText(Exception):
    """The text of this row (counted from 0) is not valid UTF-8."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


def arrow_type(declared: str) -> pa.DataType:
    """Return the type of a column, from its declared type, for formats that need one type per column.

    Follows SQLite's affinities ("Datatypes In SQLite", 3.1) with one exception. SQLite gives the affinity NUMERIC to
    every type without another affinity, such as DECIMAL, DATE or UUID. Here, only words for numbers mean numbers. All
    other words mean text.

    >>> arrow_type("VARCHAR(20)"), arrow_type("BIGINT"), arrow_type("DATETIME")
    (DataType(string), DataType(int64), DataType(string))
    """
    name = declared.upper()
    if "INT" in name or "BOOL" in name:
        return pa.int64()
    if any(part in name for part in _TEXT_WORDS):
        return pa.string()
    if "BLOB" in name:
        return pa.binary()
    numbers = (*_REAL_WORDS, "NUMERIC", "DECIMAL", "NUMBER")
    return pa.float64() if any(part in name for part in numbers) else pa.string()


def form_of(declared: str, *, is_table: bool) -> Form:
    """Return the cheapest form for a column. *is_table*: False for a view, whose values may have any type."""
    kind = arrow_type(declared)
    name = declared.upper()
    if not name or pa.types.is_binary(kind) or name == "ANY":
        return Form.ANY
    if pa.types.is_string(kind):
        is_text = is_table and any(part in name for part in _TEXT_WORDS)
        return Form.TEXT if is_text else Form.TEXT_OR_NUMBER
    # A REAL column has no integers: SQLite converts them to reals.
    is_real = is_table and pa.types.is_floating(kind) and any(part in name for part in _REAL_WORDS)
    return Form.REAL if is_real else Form.INTEGER


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A column of a query."""

    #: the name, qualified and quoted
    sql: str
    form: Form
    #: size limit of a value in bytes; the query replaces a larger value by a marker
    largest: int

    def expressions(self) -> list[str]:
        """Return the SQL expressions to select."""
        column = self.sql
        # In SQLite's order, numbers come before texts, and texts before blobs. So only texts and blobs are >= ''.
        if self.form in (Form.INTEGER, Form.REAL):
            return [f"iif({column} >= '', '', {column})"]
        if self.form is Form.TEXT:
            return [f"iif(octet_length({column}) > {self.largest}, x'', {column})"]
        if self.form is Form.TEXT_OR_NUMBER:
            return [f"iif({column} < '' OR octet_length({column}) > {self.largest}, x'', {column})"]
        code, is_large = f"unicode(typeof({column}))", f"({column} >= '' AND octet_length({column}) > {self.largest})"
        return [
            f"iif({is_large}, {_TOO_LARGE}, {code})",
            f"iif({code} = {_CODES['integer']}, {column}, NULL)",
            f"iif({code} = {_CODES['real']}, {column}, NULL)",
            f"iif({column} >= '' AND NOT {is_large}, {column}, NULL)",
        ]

    def is_text(self) -> bool:
        """Return True if the column is expected to hold only texts."""
        return self.form in (Form.TEXT, Form.TEXT_OR_NUMBER)

    def width(self) -> int:
        """Return the number of expressions."""
        return 4 if self.form is Form.ANY else 1

    def values(self, found: list[pa.Array]) -> pa.Array:
        """Return the column, made from the results of its expressions. Raises Unfit or NotText."""
        if self.form is Form.ANY:
            return _any(*found)
        (column,) = found
        if column.null_count == len(column):
            return column
        kind = column.type
        if self.is_text() and pa.types.is_string(kind):
            return checked_text(column)
        is_exact = pa.types.is_floating(kind) if self.form is Form.REAL else _is_exact_number(column)
        if self.is_text() or not is_exact:
            raise Unfit(is_large=False)
        return column


def misfit_test(column: str, kind: pa.DataType) -> str:
    """Return an SQL expression that is true for values that do not fit a column of that type."""
    if pa.types.is_integer(kind):
        return f"typeof({column}) NOT IN ('integer', 'null')"
    if pa.types.is_floating(kind):
        largest = 2**53
        return f"{column} >= '' OR (typeof({column}) = 'integer' AND {column} NOT BETWEEN -{largest} AND {largest})"
    return "0" if pa.types.is_string(kind) else f"typeof({column}) NOT IN ('blob', 'null')"


def size(columns: list[str]) -> str:
    """Return an SQL expression for the number of bytes of a row. *columns*: qualified and quoted names."""
    return f"{8 * len(columns)} + " + _sum([f"iif({name} >= '', octet_length({name}), 0)" for name in columns])


def sizes(columns: list[pa.Array]) -> pa.Array:
    """Return the number of bytes of each row, counted as in `size`."""
    total = pa.array([8 * len(columns)], pa.int64()).take(pa.nulls(len(columns[0]), pa.int64()).fill_null(0))
    for column in columns:
        total = pc.add(total, mixed_columns.text_bytes(column))
    return total


def fitting(row_sizes: pa.Array, max_bytes: int) -> int:
    """Return how many of the first rows fit into *max_bytes* together: at least one, unless there are no rows."""
    if not len(row_sizes):
        return 0
    return max(1, pc.sum(pc.less_equal(pc.cumulative_sum(row_sizes), max_bytes)).as_py() or 0)


def checked_text(column: pa.Array) -> pa.Array:
    """Return the texts. Raises NotText if one is not UTF-8: SQLite accepts any bytes as text."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raise NotText(_first_invalid(column.cast(pa.binary()))) from None
    return column


def _sum(terms: list[str]) -> str:
    """Return an SQL expression for the sum of the terms, nested in pairs: SQLite limits the depth of an expression."""
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return f"({_sum(terms[:middle])} + {_sum(terms[middle:])})"


def _is_exact_number(column: pa.Array) -> bool:
    """Return True if no number can have changed, even if the driver converted integers to doubles."""
    if pa.types.is_integer(column.type):
        return True
    return pa.types.is_floating(column.type) and mixed_columns.is_plain(column)


def _any(codes: pa.Array, integers: pa.Array, reals: pa.Array, others: pa.Array) -> pa.Array:
    if pc.any(pc.equal(codes, _TOO_LARGE)).as_py():
        raise Unfit(is_large=True)
    texts, blobs = pa.nulls(len(codes), pa.string()), pa.nulls(len(codes), pa.binary())
    if pa.types.is_string(others.type):
        texts = checked_text(others)
    elif pa.types.is_binary(others.type):
        nothing = pa.scalar(None, pa.binary())
        texts = pc.if_else(pc.equal(codes, _CODES["text"]), others, nothing)
        blobs = pc.if_else(pc.equal(codes, _CODES["blob"]), others, nothing)
        texts = checked_text(pa.Array.from_buffers(pa.string(), len(texts), texts.buffers(), offset=texts.offset))
    # The driver returns a column without values as integers.
    reals = reals if pa.types.is_floating(reals.type) else pa.nulls(len(reals), pa.float64())
    return mixed_columns.merged(integers, reals, texts, blobs)


def _first_invalid(values: pa.Array) -> int:
    for row, value in enumerate(values.to_pylist()):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return row
    return 0
