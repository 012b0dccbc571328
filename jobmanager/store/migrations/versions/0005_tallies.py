"""Tallies: how many jobs have finished, kept by triggers of SQLite."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FINISHED = "IN ('completed', 'failed', 'stopped')"
_COUNT = (
    "INSERT INTO tallies (type, status, jobs)"
    f" SELECT type, status, count(*) FROM jobs WHERE status {_FINISHED} GROUP BY type, status"
)
_ONE_MORE = (
    "INSERT INTO tallies (type, status, jobs) VALUES (NEW.type, NEW.status, 1)"
    " ON CONFLICT (type, status) DO UPDATE SET jobs = jobs + 1"
)
_LESS_ONE = "UPDATE tallies SET jobs = jobs - 1 WHERE type = OLD.type AND status = OLD.status"
_TRIGGERS = (
    ("jobs_finish", "UPDATE OF status", f"NEW.status {_FINISHED} AND OLD.status <> NEW.status", _ONE_MORE),
    ("jobs_go_on", "UPDATE OF status", f"OLD.status {_FINISHED} AND OLD.status <> NEW.status", _LESS_ONE),
    ("jobs_are_removed", "DELETE", f"OLD.status {_FINISHED}", _LESS_ONE),
)


def upgrade() -> None:
    """Make the table, which stays empty in PostgreSQL; in SQLite, count what is there, and keep it counted."""
    op.create_table(
        "tallies",
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("type", "status"),
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(_COUNT)
        for name, when, which, what in _TRIGGERS:
            op.execute(f"CREATE TRIGGER {name} AFTER {when} ON jobs WHEN {which} BEGIN {what}; END")
