"""Every setting comes from its variable; a value that cannot be used names the variable, and shows no password."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from jobmanager.config import Settings, misspelt
from jobmanager.errors import ConfigError

NUMBERS = {
    "SLOTS": ("3", "slots", 3),
    "QUEUE_LIMIT": ("10", "queue_limit", 10),
    "LEASE_SECONDS": ("2.5", "lease_seconds", 2.5),
    "CHECKPOINT_SECONDS": ("0", "checkpoint_seconds", 0.0),
    "PARK_SECONDS": ("7", "park_seconds", 7.0),
    "MAX_CRASHES": ("5", "max_crashes", 5),
    "STOP_GRACE_SECONDS": ("9", "stop_grace_seconds", 9.0),
    "KEEP_DAYS": ("0.5", "keep_days", 0.5),
    "KEEP_JOBS": ("100", "keep_jobs", 100),
    "LOG_LINES": ("100", "log_lines", 100),
    "LOG_BYTES": ("65536", "log_bytes", 65536),
    "STREAMS": ("0", "streams", 0),
}


def test_an_empty_environment_means_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_the_defaults_keep_everything_under_the_data_directory() -> None:
    settings = Settings(data_dir=Path("/data"))

    assert settings.database_url == "sqlite:////data/jobmanager.db"
    assert settings.datasets == Path("/data/datasets.toml")


def test_a_relative_data_directory_stays_where_it_was_when_the_process_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    settings = Settings(data_dir=Path("var"))
    monkeypatch.chdir("/")

    assert settings.data_dir == tmp_path / "var"
    assert settings.database_url == f"sqlite:///{tmp_path}/var/jobmanager.db"


@pytest.mark.parametrize(("name", "text", "field", "value"), [(name, *rest) for name, rest in NUMBERS.items()])
def test_every_number_is_read_from_its_variable(name: str, text: str, field: str, value: float) -> None:
    settings = Settings.from_env({f"JOBMANAGER_{name}": f" {text} "})

    assert getattr(settings, field) == value
    assert type(getattr(settings, field)) is type(value)


def test_every_text_is_read_from_its_variable() -> None:
    settings = Settings.from_env(
        {
            "JOBMANAGER_DATABASE_URL": "postgresql://me:secret@db/jobs",
            "JOBMANAGER_DATA_DIR": "/data",
            "JOBMANAGER_DATASETS": "/etc/datasets.toml",
            "JOBMANAGER_LOG": "json",
            "PROMETHEUS_MULTIPROC_DIR": "/counts",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
            "JOBMANAGER_TOKENS": "/etc/tokens",
            "JOBMANAGER_INSECURE": "1",
            "JOBMANAGER_HOSTS": "jobs.lan, [fd00::7]:8080,",
        }
    )

    assert settings.database_url == "postgresql://me:secret@db/jobs"
    assert (settings.data_dir, settings.datasets) == (Path("/data"), Path("/etc/datasets.toml"))
    assert (settings.log, settings.metrics_dir, settings.has_traces) == ("json", Path("/counts"), True)
    assert (settings.tokens, settings.insecure) == (Path("/etc/tokens"), True)
    assert settings.hosts == ("jobs.lan", "[fd00::7]:8080")


@pytest.mark.parametrize("wrong", ["http://jobs.lan", "*.lan", "jobs.lan:port", "fd00::7", "a b", "[jobs]", "a" * 300])
def test_a_host_that_no_request_can_name_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"JOBMANAGER_HOSTS cannot be used: .* is not a host") as refused:
        Settings.from_env({"JOBMANAGER_HOSTS": f"jobs.lan,{wrong}"})

    assert repr(wrong) in str(refused.value)


def test_a_log_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="JOBMANAGER_LOG cannot be used: the log can be console or json, not xml"):
        Settings.from_env({"JOBMANAGER_LOG": "xml"})


@pytest.mark.parametrize("text", ["yes", "true", "2", "O"])
def test_what_is_neither_one_nor_zero_does_not_open_the_service(text: str) -> None:
    with pytest.raises(ConfigError, match="JOBMANAGER_INSECURE must be 1 or 0"):
        Settings.from_env({"JOBMANAGER_INSECURE": text})

    assert Settings.from_env({"JOBMANAGER_INSECURE": "0"}).insecure is False


def test_every_field_has_a_variable_of_its_name() -> None:
    """A field that this test does not know is one that from_env may have forgotten."""
    texts = {"database_url", "data_dir", "datasets", "tokens", "insecure", "hosts", "log", "metrics_dir", "has_traces"}
    known = texts | {field for _, field, _ in NUMBERS.values()}

    assert {field.name for field in dataclasses.fields(Settings)} == known


def test_a_misspelt_variable_is_told_with_what_was_meant() -> None:
    slips = {
        "JOBMANAGER_SLOT": "JOBMANAGER_SLOTS",
        "JOBMANAGER_Slots": "JOBMANAGER_SLOTS",
        "JOBMANAGER_DATADIR": "JOBMANAGER_DATA_DIR",
        "JOBMANAGER_LEASE_SECOND": "JOBMANAGER_LEASE_SECONDS",
    }

    assert misspelt(dict.fromkeys(slips, "1")) == slips


def test_what_is_right_or_means_something_else_is_not_taken_for_a_slip() -> None:
    right = [f"JOBMANAGER_{name}" for name in (*NUMBERS, "DATA_DIR", "TOKENS", "URL", "TOKEN")]
    others = ["JOBMANAGER_SERVICE_HOST", "JOBMANAGER_PORT", "JOBMANAGER_PORT_8080_TCP", "JOBMANAGER_IMAGE", "SLOT"]

    assert misspelt(dict.fromkeys(right + others, "1")) == {}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf", "1e999", "0x10", "1,5", "٣x"])
def test_a_number_that_cannot_be_used_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"JOBMANAGER_{name} must be"):
        Settings.from_env({f"JOBMANAGER_{name}": text})


@pytest.mark.parametrize("name", ["QUEUE_LIMIT", "LEASE_SECONDS", "MAX_CRASHES"])
def test_zero_is_refused_where_nothing_would_work_with_it(name: str) -> None:
    with pytest.raises(ConfigError, match=f"JOBMANAGER_{name} must be at least"):
        Settings.from_env({f"JOBMANAGER_{name}": "0"})


@pytest.mark.parametrize("name", [name for name in NUMBERS if name.endswith(("_SECONDS", "_DAYS"))])
def test_a_duration_that_no_clock_can_add_up_is_refused_and_a_century_is_not(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"JOBMANAGER_{name} must be at most \d+, which is a century, not 1e12"):
        Settings.from_env({f"JOBMANAGER_{name}": "1e12"})

    assert Settings.from_env({f"JOBMANAGER_{name}": "36500"})


@pytest.mark.parametrize("name", NUMBERS)
def test_an_empty_variable_means_the_default(name: str) -> None:
    assert Settings.from_env({f"JOBMANAGER_{name}": "  "}) == Settings()


@pytest.mark.parametrize(
    "url",
    [
        "postgres:hunter2@db",
        "mysql://me:hunter2@db/jobs",
        "hunter2",
        "oracle+x://me:hunter2@db",
        "://me:hunter2@db",
    ],
)
def test_a_database_url_that_cannot_be_used_names_the_variable_and_shows_no_password(url: str) -> None:
    with pytest.raises(ConfigError, match="JOBMANAGER_DATABASE_URL") as refused:
        Settings.from_env({"JOBMANAGER_DATABASE_URL": url})

    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_database_url_is_kept_out_of_logs() -> None:
    settings = Settings(database_url="postgresql://me:hunter2@db/jobs")

    assert "hunter2" not in repr(settings)


def test_the_environment_of_the_process_is_what_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBMANAGER_SLOTS", "21")

    assert Settings.from_env().slots == 21
