"""The types of the columns that are exported."""

from __future__ import annotations

import pyarrow as pa

from jobmanager.errors import Fatal


def schema_of(chosen: list[str], columns: dict[str, pa.DataType]) -> pa.Schema:
    """Return the types of the chosen columns; raises Fatal for one that the table does not have, or no longer."""
    unknown = [name for name in chosen if name not in columns]
    if unknown:
        raise Fatal(f"The table has no column {', '.join(map(repr, unknown))}; there are: {', '.join(columns)}.")
    return pa.schema([(name, columns[name]) for name in chosen])
