"""The plan of an export: decided once, when it begins, and kept in its cursor for later attempts.

If the later rows of a file came from another table, or had other columns, the file would be silently wrong. So each
attempt compares the dataset and the database with the plan, and fails if they differ. Opens nothing; works without
Arrow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset, parse_date_format
from jobmanager.jobs.export.reader import COLUMN

if TYPE_CHECKING:
    import pyarrow as pa

#: Increase this number if exports write other bytes for the same rows. An export that an earlier version of the
#: service began then starts over.
VERSION = 1

_ADVICE = "Submit a new export."


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decisions that all attempts of an export share."""

    #: the name of the dataset, even if the export was submitted without one
    dataset: str
    #: name and type of each column of the file, in order
    columns: list[list[str]]
    #: the date format, detected or configured
    date_format: str | None
    #: columns exported as text because some values do not fit their type; None: values are written as they are
    as_text: list[str] | None
    #: a fingerprint of each field of the dataset, by the name of the field
    configured: dict[str, str]
    #: a fingerprint of each property in Reader.identity, by the name of the property
    database: dict[str, str]
    #: True: all rows come from one snapshot
    snapshot: bool = False

    @classmethod
    def begin(
        cls, dataset: Dataset, schema: pa.Schema, identity: dict[str, str], as_text: list[str] | None = None
    ) -> Plan:
        """Return the plan of an export that begins now."""
        return cls(
            dataset=dataset.name,
            columns=_types(schema),
            date_format=identity.get("date_format"),
            as_text=as_text,
            configured=_settings_fingerprints(dataset),
            database=_database_fingerprints(identity, schema.names),
            snapshot=dataset.snapshot,
        )

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Plan:
        """Return the plan stored in a cursor."""
        return cls(**kept)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON for a cursor."""
        return asdict(self)

    def names(self) -> list[str]:
        """Return the names of the columns of the file."""
        return [name for name, _ in self.columns]

    def applied(self, dataset: Dataset) -> Dataset:
        """Return the dataset with the date format and the `snapshot` that the export began with."""
        dataset = replace(dataset, snapshot=self.snapshot)
        if dataset.date_format is not None or self.date_format is None:
            return dataset
        return replace(dataset, date_format=parse_date_format(self.date_format))

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise Fatal if the configuration of the dataset has changed since the export began."""
        _compare(dataset, self.configured, _settings_fingerprints(dataset))

    def check_columns(self, dataset: Dataset, found: Iterable[str]) -> None:
        """Raise Fatal if the table lacks a column of the file. Added columns do not matter."""
        missing = [repr(name) for name in self.names() if name not in set(found)]
        if missing:
            raise Fatal(
                f"The {dataset} has lost the column {missing[0]} since this export began: it was dropped or renamed. "
                f"{_ADVICE}"
            )

    def check_database(self, dataset: Dataset, schema: pa.Schema, identity: dict[str, str]) -> None:
        """Raise Fatal if the type of a column of the file, or another property of the database, has changed."""
        for (name, before), (_, now) in zip(self.columns, _types(schema), strict=True):
            if before != now:
                raise Fatal(
                    f"The column {name!r} of {dataset} was of type {before} when this export began, and is of type "
                    f"{now} now. {_ADVICE}"
                )
        _compare(dataset, self.database, _database_fingerprints(identity, self.names()))


def _compare(dataset: Dataset, before: dict[str, str], now: dict[str, str]) -> None:
    for name, mark in before.items():
        if now.get(name) != mark:
            shown = f"column {name.removeprefix(COLUMN)!r}" if name.startswith(COLUMN) else name
            raise Fatal(f"The {shown} has changed since this export of {dataset} began. {_ADVICE}")


def _types(schema: pa.Schema) -> list[list[str]]:
    return [[field.name, str(field.type) + (" (JSON)" if field.metadata else "")] for field in schema]


def _settings_fingerprints(dataset: Dataset) -> dict[str, str]:
    """Return the fingerprints of the operator's settings, by name. Leaves out the password, which may change."""
    fields = {
        "url": dataset.url.render_as_string(hide_password=True),
        "table": dataset.table,
        "date_column": dataset.date_column,
        "key": dataset.key,
        "date_format": str(dataset.date_format),
        "timezone": str(dataset.timezone),
    }
    return {name: _fingerprint(value) for name, value in fields.items()}


def _database_fingerprints(identity: dict[str, str], names: list[str]) -> dict[str, str]:
    """Return the fingerprints of the properties in *identity*, by name. Leaves out columns that are not in the file."""
    columns = {f"{COLUMN}{name}" for name in names}
    return {
        name: _fingerprint(value) for name, value in identity.items() if not name.startswith(COLUMN) or name in columns
    }


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
