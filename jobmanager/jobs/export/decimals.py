"""Decimals of a declared precision. Pure."""

from __future__ import annotations

import pyarrow as pa

#: The most digits that an Arrow decimal holds.
_MOST_DIGITS = 76
_DIGITS_OF_128_BITS = 38


def decimal_type(precision: int, scale: int) -> pa.DataType:
    """Return the Arrow decimal type; string if Arrow has no such decimal or the precision is unknown (0).

    >>> decimal_type(10, 2), decimal_type(77, 0), decimal_type(3, -2)
    (Decimal128Type(decimal128(10, 2)), DataType(string), DataType(string))
    """
    if not (0 < precision <= _MOST_DIGITS and 0 <= scale <= precision):
        return pa.string()
    return pa.decimal128(precision, scale) if precision <= _DIGITS_OF_128_BITS else pa.decimal256(precision, scale)
