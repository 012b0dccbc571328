"""The settings of a process, read once from the environment.

The only reader of os.environ, except gunicorn_conf.py and gunicorn_worker.py. A bad value raises ConfigError with a
sentence that names the variable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from jobmanager.core import hosts
from jobmanager.errors import ConfigError

Number = TypeVar("Number", int, float)

#: Longest duration that a setting may have. A longer one could overflow a clock.
_CENTURY_DAYS = 36_500.0
_CENTURY_SECONDS = _CENTURY_DAYS * 24 * 60 * 60
#: Similarity, from 0 to 1, from which a name counts as a misspelt setting. High, since all settings share a prefix.
_ALIKE = 0.88


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings that an operator chooses. The field `keep_days` is read from JOBMANAGER_KEEP_DAYS, and so on."""

    #: SQLAlchemy URL of the store; "" means the SQLite file data_dir/jobmanager.db; not in repr: it may have a password
    database_url: str = field(default="", repr=False)
    #: folder for the files of jobs, sample data and the SQLite store
    data_dir: Path = Path("var")
    #: file of the datasets that Export may read; None means data_dir/datasets.toml
    datasets: Path | None = None
    #: most jobs running at once in a process; 0: a process that only serves HTTP
    slots: int = 8
    #: most waiting jobs; further submissions are refused
    queue_limit: int = 1_000_000
    #: time after which a process that renews no leases loses its jobs
    lease_seconds: float = 15.0
    #: least time between two saved checkpoints of a job
    checkpoint_seconds: float = 1.0
    #: how long a halted job keeps its thread
    park_seconds: float = 60.0
    #: a job fails after this many process crashes without a new cursor in between
    max_crashes: int = 3
    #: time after which a stopping job counts as unresponsive
    stop_grace_seconds: float = 30.0
    #: days after which finished jobs are removed, with their files; 0: never
    keep_days: float = 0.0
    #: how many of the newest completed and stopped jobs are kept; 0: all
    keep_jobs: int = 0
    #: how many of the newest lines of a job's log are kept
    log_lines: int = 10_000
    #: most bytes that are kept of a job's log
    log_bytes: int = 10 * 1024 * 1024
    #: file of API tokens; None: the API is open, and may be bound to loopback only
    tokens: Path | None = None
    #: allow other addresses than loopback to be bound without tokens
    insecure: bool = False
    #: hosts, with or without a port, that requests may name in addition to loopback and the bound address. If empty:
    #: with tokens or with insecure, any host is allowed; otherwise, only loopback and the bound address are allowed
    hosts: tuple[str, ...] = ()
    #: most open streams in a process; each takes one of the threads that serve requests
    streams: int = 8
    #: format of the server's log: "console" for people, "json" for programs
    log: str = "console"
    #: folder in which the workers of a server share their metrics; None: each process has its own metrics
    metrics_dir: Path | None = None
    #: True if traces are sent, as configured by OpenTelemetry's variables
    has_traces: bool = False

    def __post_init__(self) -> None:
        """Fill in defaults that depend on data_dir. Make paths absolute, in case the process changes its folder."""
        object.__setattr__(self, "data_dir", Path(self.data_dir).absolute())
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{self.data_dir}/jobmanager.db")
        if self.datasets is None:
            object.__setattr__(self, "datasets", self.data_dir / "datasets.toml")
        if self.tokens is not None:
            object.__setattr__(self, "tokens", Path(self.tokens).absolute())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings. Raises ConfigError if a value is invalid."""
        read = _Reader(environ)
        return cls(
            database_url=read.text("DATABASE_URL", "", check=_check_url),
            data_dir=Path(read.text("DATA_DIR", "var")),
            datasets=Path(value) if (value := read.text("DATASETS", "")) else None,
            slots=read.number("SLOTS", 8, least=0),
            queue_limit=read.number("QUEUE_LIMIT", 1_000_000, least=1),
            lease_seconds=read.number("LEASE_SECONDS", 15.0, least=0.1, most=_CENTURY_SECONDS),
            checkpoint_seconds=read.number("CHECKPOINT_SECONDS", 1.0, least=0.0, most=_CENTURY_SECONDS),
            park_seconds=read.number("PARK_SECONDS", 60.0, least=0.0, most=_CENTURY_SECONDS),
            max_crashes=read.number("MAX_CRASHES", 3, least=1),
            stop_grace_seconds=read.number("STOP_GRACE_SECONDS", 30.0, least=0.0, most=_CENTURY_SECONDS),
            keep_days=read.number("KEEP_DAYS", 0.0, least=0.0, most=_CENTURY_DAYS),
            keep_jobs=read.number("KEEP_JOBS", 0, least=0),
            log_lines=read.number("LOG_LINES", 10_000, least=100),
            log_bytes=read.number("LOG_BYTES", 10 * 1024 * 1024, least=65_536),
            tokens=Path(value) if (value := read.text("TOKENS", "")) else None,
            insecure=read.truth("INSECURE"),
            hosts=_split(read.text("HOSTS", "", check=_check_hosts)),
            streams=read.number("STREAMS", 8, least=0),
            log=read.text("LOG", "console", check=_check_log),
            # The name is set by prometheus_client, which reads this variable too.
            metrics_dir=Path(value) if (value := environ.get("PROMETHEUS_MULTIPROC_DIR", "")) else None,
            has_traces=_has_exporter(environ),
        )


def misspelt(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that look like misspelt settings, each with the setting that was probably meant.

    Other unknown names are left out: Kubernetes sets JOBMANAGER_SERVICE_HOST if a service is named jobmanager.
    """
    fields = set(Settings.__slots__) - {"metrics_dir", "has_traces"}  # these have variables with other prefixes
    known = [f"JOBMANAGER_{name.upper()}" for name in sorted(fields | {"url", "token"})]
    others = sorted(name for name in environ if name.upper().startswith("JOBMANAGER_") and name not in known)
    meant = {name: get_close_matches(name.upper(), known, n=1, cutoff=_ALIKE) for name in others}
    return {name: near[0] for name, near in meant.items() if near}


class _Reader:
    """Reads one variable at a time. Raises ConfigError, with the variable's name, if its value is invalid."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str, *, check: Callable[[str], None] | None = None) -> str:
        value = self._environ.get(f"JOBMANAGER_{name}", "").strip()
        if value and check:
            try:
                check(value)
            except ValueError as error:
                raise ConfigError(f"JOBMANAGER_{name} cannot be used: {error}.") from None
        return value or default

    def truth(self, name: str) -> bool:
        value = self._environ.get(f"JOBMANAGER_{name}", "").strip()
        if value not in ("", "0", "1"):
            raise ConfigError(f"JOBMANAGER_{name} must be 1 or 0, not {value!r}.")
        return value == "1"

    def number(self, name: str, default: Number, *, least: Number, most: float = float("inf")) -> Number:
        value = self._environ.get(f"JOBMANAGER_{name}", "").strip()
        if not value:
            return default
        kind = type(default)
        try:
            number = kind(value)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ConfigError(f"JOBMANAGER_{name} must be {wanted}, not {value!r}.") from None
        if not least <= number < float("inf"):
            raise ConfigError(f"JOBMANAGER_{name} must be at least {least} and finite, not {value}.")
        if number > most:
            raise ConfigError(f"JOBMANAGER_{name} must be at most {most:.0f}, which is a century, not {value}.")
        return number


def _has_exporter(environ: Mapping[str, str]) -> bool:
    """Return True if OpenTelemetry's variables name an exporter or an endpoint for traces."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    named = [environ.get(f"OTEL_EXPORTER_OTLP_{name}", "") for name in ("ENDPOINT", "TRACES_ENDPOINT")]
    is_disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none"
    return not is_disabled and (exporter == "otlp" or any(named))


def _check_log(value: str) -> None:
    if value not in ("console", "json"):
        raise ValueError(f"the log can be console or json, not {value}")


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _check_hosts(value: str) -> None:
    hosts.parse_all(_split(value))


def _check_url(value: str) -> None:
    """Raise ValueError if *value* is not the URL of a usable store. Does not show the URL: it may have a password."""
    scheme, separator, _ = value.partition("://")
    if not separator:
        raise ValueError("it is not an SQLAlchemy URL such as sqlite:////var/lib/jobmanager/jobmanager.db")
    if scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise ValueError(f"the store can be SQLite or PostgreSQL, not {scheme}")
