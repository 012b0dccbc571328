"""Five public data sets, from packages that ship them, come out of SQLite and PostgreSQL equal in every cell.

ISO codes of subdivisions, languages and currencies (pycountry, Debian's iso-codes), airports (airportsdata), and the
rotation of the earth since 1962 (astropy-iers-data, IERS C04). Only the last has dates of its own; the others get some.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest

from jobmanager.config import Settings
from jobmanager.jobs.export.job import Export
from tests.export.tables import FORMATS, Column, cells, dataset, expected, export, file_of

#: Of each set, so that the tests last seconds.
_MOST_ROWS = 1_500
_POSTGRES_TYPES = {"integer": "bigint", "real": "double precision", "text": "text", "time": "timestamp"}
_SQLITE_TYPES = {"integer": "INTEGER", "real": "REAL", "text": "TEXT", "time": "TEXT"}
Table = tuple[list[Column], list[tuple[Any, ...]]]


class DataExport(Export):
    """An export of some chunks a set."""

    chunk_rows: ClassVar[int] = 400


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations, package
    return Path(spec.submodule_search_locations[0])


def _dated(records: list[dict[str, Any]], families: dict[str, str]) -> Table:
    """Return a table whose rows have a number and a date in front; ten share each date."""
    columns = [Column(name="id", family="integer"), Column(name="at", family="time")]
    columns += [Column(name=name, family=family) for name, family in families.items()]
    rows = [
        (number, datetime(2024, 3, 1) + timedelta(hours=number // 10), *(record.get(name) for name in families))
        for number, record in enumerate(records[:_MOST_ROWS])
    ]
    return columns, rows


def _codes(file: str, names: list[str]) -> Table:
    ((_, records),) = json.loads((_folder("pycountry") / "databases" / f"{file}.json").read_text("utf-8")).items()
    return _dated(records, dict.fromkeys(names, "text"))


def _airports() -> Table:
    with (_folder("airportsdata") / "airports.csv").open(encoding="utf-8", newline="") as file:
        records: list[dict[str, Any]] = list(csv.DictReader(file))
    for record in records:
        record |= {
            "elevation": int(float(record["elevation"])),
            "lat": float(record["lat"]),
            "lon": float(record["lon"]),
        }
    families = dict.fromkeys(["icao", "iata", "name", "city", "subd", "country", "tz", "lid"], "text")
    # From many countries, whose names are in many alphabets.
    return _dated(records[::17], families | {"elevation": "integer", "lat": "real", "lon": "real"})


def _rotation_of_the_earth() -> Table:
    text = (_folder("astropy_iers_data") / "data" / "eopc04.1962-now").read_text("utf-8")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")][:_MOST_ROWS]
    rows = [
        (number, datetime(*map(int, line[:4])), *map(float, line[4:]))  # type: ignore[arg-type]
        for number, line in enumerate(lines)
    ]
    columns = [Column(name="id", family="integer"), Column(name="at", family="time")]
    return [*columns, *(Column(name=f"c{number}", family="real") for number in range(len(rows[0]) - 2))], rows


SETS = {
    "subdivisions": lambda: _codes("iso3166-2", ["code", "name", "type", "parent"]),
    "languages": lambda: _codes("iso639-3", ["alpha_2", "alpha_3", "name", "inverted_name", "scope", "type"]),
    "currencies": lambda: _codes("iso4217", ["alpha_3", "name", "numeric"]),
    "airports": _airports,
    "rotation of the earth": _rotation_of_the_earth,
}


@pytest.fixture(params=SETS)
def table(request: pytest.FixtureRequest) -> Table:
    columns, rows = SETS[request.param]()
    assert len(rows) > 100, "the package ships other data than it did"
    return columns, rows


def _declared(columns: list[Column], types: dict[str, str]) -> str:
    return ", ".join(f"{column.name} {types[column.family]}" for column in columns)


def _check(settings: Settings, columns: list[Column], client: list[tuple[Any, ...]]) -> None:
    for file_format in FORMATS:
        outcome = export(DataExport, settings, file_format, restart_after=2 if len(client) > 800 else None)
        assert outcome.error is None
        assert cells(file_of(outcome), file_format, columns) == expected(client, file_format, columns)


def test_every_cell_of_public_data_comes_out_of_sqlite(table: Table, tmp_path: Path) -> None:
    columns, rows = table
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute(f"CREATE TABLE t ({_declared(columns, _SQLITE_TYPES)})")
        values = ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO t VALUES ({values})", [(row[0], str(row[1]), *row[2:]) for row in rows])
        client = connection.execute("SELECT * FROM t ORDER BY at, id").fetchall()
    as_text = [Column(name=each.name, family="text" if each.family == "time" else each.family) for each in columns]

    _check(dataset(tmp_path, "sqlite:///data.db", "t"), as_text, client)


def test_every_cell_of_public_data_comes_out_of_postgresql(table: Table, server: str, tmp_path: Path) -> None:
    columns, rows = table
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute(f"CREATE TABLE t ({_declared(columns, _POSTGRES_TYPES)})")
        with connection.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        client = connection.execute("SELECT * FROM t ORDER BY at, id").fetchall()
    url = server.replace("postgresql://", "postgresql+psycopg://")

    _check(dataset(tmp_path, url, "t"), columns, client)
