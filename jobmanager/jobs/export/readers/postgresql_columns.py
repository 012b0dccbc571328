"""The columns of a PostgreSQL table: how each is selected, and the type that it is exported with. Pure.

Every type that Arrow lacks is selected as the text that the server writes, or as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import pyarrow as pa

from jobmanager.jobs.export.decimals import decimal_type

#: Metadata of a field whose texts are JSON.
IS_JSON = {b"jobmanager": b"json"}

#: For each type that Arrow has: the Arrow type that the driver returns, and the exported type.
_NATIVE: dict[str, tuple[pa.DataType, pa.DataType]] = {
    "int2": (pa.int16(), pa.int64()),
    "int4": (pa.int32(), pa.int64()),
    "int8": (pa.int64(), pa.int64()),
    "float8": (pa.float64(), pa.float64()),
    "bool": (pa.bool_(), pa.bool_()),
    "bytea": (pa.binary(), pa.binary()),
    "date": (pa.date32(), pa.date32()),
    "timestamp": (pa.timestamp("us"), pa.timestamp("us")),
    "timestamptz": (pa.timestamp("us", tz="UTC"), pa.timestamp("us", tz="UTC")),
    "text": (pa.string(), pa.string()),
    "varchar": (pa.string(), pa.string()),
    "bpchar": (pa.string(), pa.string()),  # a cast would strip its trailing blanks
}
#: The SQL for types that need more than a plain cast to text.
_FORMS: dict[str, LiteralString] = {
    "float4": "CAST(CAST({} AS text) AS double precision)",  # 0.1, not the exact 0.10000000149
    "inet": "abbrev({})",  # a cast would add the /32
    "array": "CAST(to_jsonb({}) AS text)",
    "json array": "CAST(array_to_json({}) AS text)",  # jsonb refuses some texts that json accepts
    "composite": "CAST(to_jsonb({}) AS text)",
}
_JSON_KINDS = frozenset({"json", "jsonb", "array", "json array", "composite"})
#: Types of keys that a checkpoint stores as Arrow returns them. Others are stored as the server's text.
_PLAIN_KEYS = frozenset({"int2", "int4", "int8", "bytea", "text", "varchar", "bpchar"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as the catalog describes it."""

    name: str
    #: its number in the table, which changes if the column is dropped and added again
    number: int
    #: its type as SQL writes it
    declared: str
    #: the name of the type (for a domain, of its base type); or "array", "json array", "composite" or "other"
    kind: str
    #: precision and scale as encoded in the catalog (atttypmod); -1 if there are none
    modifier: int
    is_nullable: bool
    #: OID of its collation; 0 if it has none
    collation: int
    #: True if only texts with the same bytes are equal
    is_deterministic: bool

    @property
    def form(self) -> LiteralString:
        """Return the SQL that selects the column; {} stands for its name."""
        return "{}" if self.kind in _NATIVE else _FORMS.get(self.kind, "CAST({} AS text)")

    @property
    def delivered(self) -> pa.DataType:
        """Return the Arrow type that the driver returns for `form`."""
        if self.kind == "float4":
            return pa.float64()
        return _NATIVE[self.kind][0] if self.kind in _NATIVE else pa.string()

    @property
    def field(self) -> pa.Field:
        """Return the Arrow field: the name and the exported type."""
        metadata = IS_JSON if self.kind in _JSON_KINDS else None
        return pa.field(self.name, self._exported(), metadata=metadata)

    @property
    def is_plain_key(self) -> bool:
        """Return True if a checkpoint can store keys of this column as Arrow returns them."""
        return self.kind in _PLAIN_KEYS

    def _exported(self) -> pa.DataType:
        if self.kind in _NATIVE:
            return _NATIVE[self.kind][1]
        if self.kind == "numeric":
            return decimal_type(*_digits(self.modifier))
        return self.delivered


def column_of(row: Mapping[str, Any]) -> Column:
    """Return the column that a row of the catalog describes."""
    return Column(**{name: row[name] for name in Column.__slots__})


def _digits(modifier: int) -> tuple[int, int]:
    """Return precision and scale of a numeric; (0, 0) if its type states none.

    Source: PostgreSQL, src/backend/utils/adt/numeric.c, numeric_typmod_precision and numeric_typmod_scale.
    """
    if modifier < 0:
        return 0, 0
    scale = (modifier - 4) & 0x7FF
    return ((modifier - 4) >> 16) & 0xFFFF, (scale ^ 1024) - 1024
