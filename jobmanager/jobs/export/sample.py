"""Sample data for a first export: survey responses over two years, the same on every machine."""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from jobmanager.durable import sync_file
from jobmanager.private import make_folder

_FIRST = datetime(2023, 1, 1)
_SECONDS = 731 * 86_400  # 2023 and 2024, a leap year

_COUNTRIES = ("AT", "BR", "CA", "DE", "FR", "IN", "JP", "KE", "PL", "US")
_QUESTIONS = ("How was your stay?", "Would you come again?", "How did you hear of us?")
_COMMENTS = (
    None,
    "",
    "Fine.",
    'They said "see you soon", and we will.',
    "Clean, quiet, close to the station",
    "Überraschend gut; Frühstück à la carte",
    "とても良かったです",
    "First line\nsecond line",
    "Доброе утро 🙂",
)

_DATASETS = """# The datasets that Export may read. To add one, write its [name] and these four settings.
[responses]
url = "sqlite:///sample.db"
table = "responses"
date_column = "submitted_at"
key = "id"
"""

_SCHEMA = """
CREATE TABLE responses (
    id INTEGER PRIMARY KEY,
    submitted_at TEXT NOT NULL,
    respondent INTEGER NOT NULL,
    country TEXT NOT NULL,
    question TEXT NOT NULL,
    score REAL,
    comment TEXT
);
"""


def make_sample(data_dir: Path, rows: int = 1_000_000) -> Path:
    """Make sample.db, and a datasets.toml that names its table, in *data_dir*. Leaves existing files alone.

    Each file appears completely or not at all, even if the process dies. Blocks while another process makes the sample.
    Returns the path of sample.db.
    """
    make_folder(data_dir)
    path = data_dir / "sample.db"
    with _turn(data_dir):
        if not path.exists():
            _appear(path, lambda unfinished: _fill(unfinished, rows))
        datasets = data_dir / "datasets.toml"
        if not datasets.exists():
            _appear(datasets, lambda unfinished: unfinished.write_text(_DATASETS, encoding="utf-8"))
    return path


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Lock out other processes; the kernel releases the lock if this process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _appear(path: Path, make: Callable[[Path], object]) -> None:
    """Write a file with *make* under another name, sync it, then give it its name."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)  # left by a process that died
    make(unfinished)
    with open(unfinished, "rb") as file:
        sync_file(file.fileno())
    os.replace(unfinished, path)


def _fill(path: Path, rows: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_SCHEMA)
        with connection:
            connection.executemany("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", responses(rows))
            connection.execute("CREATE INDEX responses_by_date ON responses (submitted_at, id)")
        connection.execute("PRAGMA journal_mode = WAL")


def responses(rows: int) -> Iterator[tuple[object, ...]]:
    """Yield *rows* responses in the order of time. Some responses have the same time."""
    chance = random.Random(20230101)
    pick, number = chance.choice, chance.random
    seconds = sorted(int(number() * _SECONDS) for _ in range(rows))
    for key, second in enumerate(seconds, start=1):
        at = _FIRST + timedelta(seconds=second)
        score = None if number() < 0.05 else round(number() * 10, 1)
        yield (
            key,
            at.isoformat(sep=" "),
            int(number() * 1e6),
            pick(_COUNTRIES),
            pick(_QUESTIONS),
            score,
            pick(_COMMENTS),
        )
