"""Bring a database to the schema that this version of the code works with, or refuse it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from jobmanager.errors import ConfigError

_FOLDER = Path(__file__).parent / "migrations"


def bring_up_to_date(connection: Connection) -> None:
    """Make or change the tables, in the transaction of *connection*, which no other process may have beside it.

    Does nothing where they are up to date. Raises ConfigError if a newer version of the service made them.
    """
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    if present == scripts.get_current_head():
        return
    if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(
            f"The store has the schema {present}, which this version of the service does not know: "
            "a newer version has been at work on it. Start that one, or a later one."
        )
    command.upgrade(config, "head")
