"""Schemas of exported columns."""

from __future__ import annotations

import pyarrow as pa

from jobmanager.errors import Fatal


def schema_of(chosen: list[str], columns: dict[str, pa.DataType]) -> pa.Schema:
    """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them."""
    unknown = [name for name in chosen if name not in columns]
    if unknown:
        raise Fatal(f"The table has no column {', '.join(map(repr, unknown))}; its columns: {', '.join(columns)}.")
    return pa.schema([(name, columns[name]) for name in chosen])
