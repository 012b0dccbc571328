"""The columns of a table of MariaDB or MySQL: how each is selected, and the type that it is exported with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobmanager.jobs.export.decimals import decimal_type
from jobmanager.jobs.export.readers.postgresql_columns import IS_JSON

_INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year"})
_FLOATS = frozenset({"float", "double"})
_BYTES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_TIMES = frozenset({"datetime", "timestamp"})
_SHAPES = frozenset({"geometry", "point", "linestring", "polygon"}) | frozenset(
    {"multipoint", "multilinestring", "multipolygon", "geometrycollection", "geomcollection"}
)
#: Digits of the largest unsigned number of 64 bits.
_DIGITS_OF_UNSIGNED = 20
#: Bits of a signed 64-bit number without its sign.
_BITS_OF_SIGNED = 63
#: Types that cannot order the rows, because a comparison with a literal does not follow their sort order. For example,
#: float is rounded, and enum sorts by number.
_UNORDERED = frozenset({"float", "enum", "set", "json", "bit"}) | _SHAPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as information_schema describes it."""

    name: str
    #: its type as SQL writes it
    declared: str
    #: the name of the type alone
    kind: str
    #: number of digits; for a bit field, number of bits; 0 if the type has neither
    precision: int
    scale: int
    is_nullable: bool
    collation: str

    @property
    def form(self) -> str:
        """Return the SQL that selects the column; {} stands for its name."""
        if self.kind in _SHAPES:
            return "ST_AsText({})"
        return "CAST({} AS UNSIGNED)" if self.kind == "bit" else "{}"

    @property
    def field(self) -> pa.Field:
        """Return the Arrow field: the name and the exported type."""
        return pa.field(self.name, self._type(), metadata=IS_JSON if self.kind == "json" else None)

    @property
    def is_ordered(self) -> bool:
        """Return True if the column can order the rows: a comparison with a literal follows its sort order."""
        return self.kind not in _UNORDERED

    @property
    def is_number(self) -> bool:
        """Return True if the literals of this type are numbers, without quotes."""
        return self.kind in _INTEGERS or self.kind in ("decimal", "double")

    def _type(self) -> pa.DataType:
        if "zerofill" in self.declared:
            return pa.string()
        if self.kind == "decimal":
            return decimal_type(self.precision, self.scale)
        is_large = self.kind == "bigint" and "unsigned" in self.declared
        if is_large or (self.kind == "bit" and self.precision > _BITS_OF_SIGNED):
            return pa.decimal128(_DIGITS_OF_UNSIGNED, 0)
        return _plain_type(self.kind)


def _plain_type(kind: str) -> pa.DataType:
    if kind in _INTEGERS or kind == "bit":
        return pa.int64()
    if kind in _FLOATS:
        return pa.float64()
    if kind in _BYTES:
        return pa.binary()
    if kind in _TIMES:
        return pa.timestamp("us")
    return pa.date32() if kind == "date" else pa.string()


def column_of(row: Sequence[Any]) -> Column:
    """Return the column that a row of information_schema.columns describes. All values of the row are texts."""
    name, declared, kind, precision, scale, nullable, collation = row
    return Column(
        name=name,
        declared=declared,
        kind=kind,
        precision=int(precision or 0),
        scale=int(scale or 0),
        is_nullable=nullable == "YES",
        collation=collation or "",
    )


def array_of(texts: list[Any], kind: pa.DataType) -> tuple[pa.Array, int | None]:
    """Convert texts from the server to an array of type *kind*. Return the array and None.

    If a value does not fit the type, such as 0000-00-00, returns an array of all values as text, and the index of the
    first value that does not fit.
    """
    if pa.types.is_binary(kind):
        return pa.array([_bytes(value) for value in texts], kind), None
    array = pa.array(texts, pa.string())
    try:
        return array.cast(kind), None
    except pa.ArrowInvalid:
        fitting = pa.array([_fits(text, kind) for text in texts], pa.bool_())
    first = pc.index(fitting, False).as_py()
    known = pc.if_else(fitting, array, None).cast(kind).cast(pa.string())
    return pc.coalesce(known, array), first


def _fits(text: str | None, kind: pa.DataType) -> bool:
    if text is None:
        return True
    try:
        pa.scalar(text).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _bytes(value: Any) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
