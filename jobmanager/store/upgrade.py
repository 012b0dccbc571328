"""Run the Alembic migrations that a database lacks."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from jobmanager.errors import ConfigError

_FOLDER = Path(__file__).parent / "migrations"


def upgrade(connection: Connection, present: str | None) -> None:
    """Run the migrations after *present* in the transaction of *connection*.

    Raises ConfigError if *present* is unknown.
    """
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(
            f"The store has the schema {present}, which this version of the service does not know: "
            "a newer version has upgraded it. Start that version, or a later one."
        )
    command.upgrade(config, "head")
