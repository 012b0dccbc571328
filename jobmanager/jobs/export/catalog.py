"""The datasets of this service: find one by its name, connect to it, and list its columns.

Arrow and the drivers (see readers/opening.py) take as much memory as the rest of the service, and never release it.
They are imported for the first export, not when the type is registered.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

from sqlalchemy.engine import make_url

from jobmanager.config import Settings
from jobmanager.errors import Fatal
from jobmanager.jobs.export.bounded import query_with_timeout
from jobmanager.jobs.export.datasets import Dataset, Datasets, load_datasets
from jobmanager.jobs.export.libraries import missing_package, preload_libraries
from jobmanager.jobs.export.reader import Reader


def find_dataset(name: str | None, settings: Settings) -> Dataset:
    """Return the dataset with that name; if *name* is None, the only dataset.

    Raises ValueError, with a message for clients, if there is no such dataset, if it cannot be used, or if *name* is
    None and there are several datasets.
    """
    datasets = configured_datasets(settings)
    names = sorted({*datasets, *datasets.faults})
    if not names:
        raise ValueError("no dataset is configured; the operator must add one to the list of datasets")
    if name is None and len(names) > 1:
        raise ValueError(f"dataset must be one of: {', '.join(names)}")
    wanted = names[0] if name is None else name
    if wanted in datasets.faults:
        raise ValueError(datasets.faults[wanted])
    if wanted not in datasets:
        raise ValueError(f"there is no dataset {wanted!r}; known datasets: {', '.join(names)}")
    return datasets[wanted]


def configured_datasets(settings: Settings) -> Datasets:
    """Return the datasets that can be exported, with the faults of all others in `faults`. Raises ListUnreadable."""
    datasets = load_datasets(settings.datasets) if settings.datasets else Datasets()
    for name in [name for name, dataset in datasets.items() if _is_store(dataset, settings)]:
        del datasets[name]
        datasets.faults[name] = f"dataset {name!r} is the service's own database, which cannot be exported"
    return datasets


def _is_store(dataset: Dataset, settings: Settings) -> bool:
    """Return True if the dataset is the SQLite file of the service's own store.

    An export could damage the store, because ADBC brings its own SQLite library. When one SQLite library of a process
    closes a file, the kernel drops the locks that another SQLite library of the process has on the file.
    Source: "How To Corrupt An SQLite Database File", 2.2.1.
    """
    store = make_url(settings.database_url)
    if {store.get_backend_name(), dataset.url.get_backend_name()} != {"sqlite"}:
        return False
    return os.path.realpath(store.database or "") == os.path.realpath(dataset.url.database or "")


def open_reader(dataset: Dataset) -> Reader:
    """Return a reader of the dataset, which connects when it is first used. Raises Fatal if a package is missing."""
    reader: Reader = load_arrow().open_reader(dataset)
    return reader


def columns_of(dataset: Dataset) -> dict[str, str]:
    """Return name and type of each column, in the order of the table. Blocks. Raises DatasetAway or Fatal."""
    with closing(open_reader(dataset)) as reader:
        return {name: str(kind) for name, kind in reader.columns().items()}


def query_columns(dataset: Dataset, *, seconds: float) -> dict[str, str]:
    """Return `columns_of(dataset)`, with a timeout, for an HTTP request.

    Raises QueryTimeout if the database has not answered after *seconds*. The first import of a driver takes additional
    time.
    """
    load_arrow().import_driver(dataset)
    return query_with_timeout(lambda: columns_of(dataset), seconds=seconds)


def load_arrow() -> Any:
    """Import and return the module that reads and writes rows. Raises Fatal if a package is missing."""
    if (missing := missing_package()) is not None:
        raise Fatal(f"Exports need {missing}, which is not installed. Install the service as jobmanager[export].")
    preload_libraries("pyarrow")
    from jobmanager.jobs.export.readers import opening  # noqa: PLC0415 - see the head of this module

    return opening
