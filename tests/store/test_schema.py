"""Every database gets exactly the tables that the code works with, once, and none of a version it does not know."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

import jobmanager.store.migrations
from jobmanager.core.states import Status
from jobmanager.core.values import NewJob
from jobmanager.errors import ConfigError
from jobmanager.store import Store
from jobmanager.store.migrate import CURRENT
from jobmanager.store.schema import metadata

MIGRATIONS = Path(jobmanager.store.migrations.__file__).parent


@pytest.fixture
def empty_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of a database in which there is nothing."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/new/jobs.db"
    return str(request.getfixturevalue("empty_postgres"))


def ask(url: str, question: Any) -> Any:
    """Return what *question* gives on a connection of its own."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            return question(connection)
    finally:
        engine.dispose()


def differences(connection: Any) -> Any:
    return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)


def indexes(connection: Any) -> dict[str, str]:
    """Return the text of every index, which holds its order and its condition too."""
    query = {
        "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
        "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    }[connection.dialect.name]
    return {name: sql for name, sql in connection.execute(text(query)) if not name.startswith("alembic")}


def test_the_schema_that_the_code_works_with_is_that_of_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    assert ScriptDirectory.from_config(config).get_current_head() == CURRENT


def test_an_empty_database_gets_exactly_the_tables_that_the_code_works_with(empty_url: str) -> None:
    Store(empty_url).close()

    assert ask(empty_url, differences) == []


def test_indexes_are_those_of_the_code_with_their_order_and_condition(empty_url: str) -> None:
    Store(empty_url).close()
    made = ask(empty_url, indexes)

    def recreate(connection: Any) -> dict[str, str]:
        metadata.drop_all(connection)
        metadata.create_all(connection)
        return indexes(connection)

    assert made == ask(empty_url, recreate)
    assert len(made) > 8


def test_opening_a_store_again_changes_nothing(empty_url: str) -> None:
    store = Store(empty_url)
    (job,) = store.add([NewJob(id="a", type="T", args={})], actor="ann")
    store.close()

    for _ in range(2):
        again = Store(empty_url)
        assert again.get("a") == job
        again.close()

    assert ask(empty_url, differences) == []


#: A job as every version has kept it: one waits for a slot, one for its time, one has ended.
OLD_JOBS = """
INSERT INTO jobs (id, type, args, status, priority, labels, max_attempts, run_at, submitted_at, ran_seconds, attempt,
                  failures, crashes, checkpoint_seq, details, is_forced)
VALUES ('usual', 'T', '{}', 'submitted', 0, '{}', 1, 0, 1, 0, 0, 0, 0, 0, '{}', false),
       ('due', 'T', '{}', 'submitted', 5, '{}', 1, 2, 1, 0, 0, 0, 0, 0, '{}', false),
       ('put off', 'T', '{}', 'submitted', 9, '{}', 1, 4102444800000000, 1, 0, 0, 0, 0, 0, '{}', false),
       ('done', 'T', '{}', 'completed', 9, '{"a": "b"}', 1, 0, 1, 1, 1, 0, 0, 0, '{}', false)
"""


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_a_store_of_an_earlier_version_becomes_like_a_new_one_and_its_jobs_go_on(empty_url: str, revision: str) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir()

    def make(connection: Any) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.exec_driver_sql(OLD_JOBS)

    ask(empty_url, make)

    store = Store(empty_url)
    assert store.look(["T"]).has_waiting
    assert [job.id for job in store.claim(9, types=["T"], max_running={})] == ["due", "usual"]
    assert store.look(["T"]).next_due_at == datetime(2100, 1, 1, tzinfo=UTC)
    assert store.count() == {("T", Status.RUNNING): 2, ("T", Status.SUBMITTED): 1, ("T", Status.COMPLETED): 1}
    store.close()

    assert ask(empty_url, differences) == []
    upgraded = ask(empty_url, indexes)
    ask(empty_url, metadata.drop_all)
    ask(empty_url, metadata.create_all)
    assert upgraded == ask(empty_url, indexes)


def test_a_store_of_a_newer_version_is_refused_with_a_sentence(empty_url: str) -> None:
    Store(empty_url).close()
    ask(empty_url, lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))

    with pytest.raises(ConfigError, match=r"has the schema 9999, which this version of the service does not know"):
        Store(empty_url)

    assert ask(empty_url, differences) == [], "nothing of it was touched"


OPEN_AND_SUBMIT = """
import sys
from jobmanager.store import Store
from jobmanager.core.values import NewJob
print("ready", flush=True)
for url in sys.stdin:
    store = Store(url.strip())
    store.add([NewJob(id=sys.argv[1], type="T", args={})], actor="me")
    store.close()
    print("done", flush=True)
"""


@pytest.fixture
def processes() -> Iterator[list[Any]]:
    """Return processes that are ready to open whatever store they are told."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_SUBMIT, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for number in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.communicate(timeout=10)
        assert process.returncode == 0


@pytest.mark.slow
def test_processes_that_open_an_empty_database_at_one_instant_do_not_collide(
    processes: list[Any], empty_url: str, kind: str
) -> None:
    for number in range(5):
        url = empty_url if kind == "postgresql" else f"{empty_url}{number}"
        for process in processes:
            process.stdin.write(f"{url}\n")
            process.stdin.flush()
        assert [process.stdout.readline() for process in processes] == ["done\n"] * 3

        store = Store(url)
        assert store.count() == {("T", Status.SUBMITTED): 3}
        store.close()
        if kind == "postgresql":
            ask(url, lambda connection: connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public")))


def test_revisions_form_one_line_without_branches() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)

    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


def test_the_template_of_migrations_makes_one_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "script.py.mako").write_text((MIGRATIONS / "script.py.mako").read_text())
    (tmp_path / "env.py").write_text("")
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")

    made = ScriptDirectory.from_config(config).generate_revision("0002", "Add a column")

    assert made is not None
    assert made.doc == "Add a column."
    assert (made.revision, made.down_revision) == ("0002", None)
    made.module.upgrade()
