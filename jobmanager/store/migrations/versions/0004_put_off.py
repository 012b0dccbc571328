"""Delayed jobs: kept out of the queue until they are due, so that claims need not skip them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add `waits_until`. Waiting jobs with a `run_at` count as delayed, even if that time has passed."""
    op.add_column("jobs", sa.Column("waits_until", sa.BigInteger(), nullable=True))
    op.execute("UPDATE jobs SET waits_until = run_at WHERE status = 'submitted' AND run_at > 0")
    op.drop_index("jobs_waiting", "jobs")
    op.drop_index("jobs_due", "jobs")
    _create_index("jobs_waiting", [sa.literal_column("priority DESC"), "number", "type"], "waits_until IS NULL")
    _create_index("jobs_due", ["waits_until", "run_at"], "run_at > 0")


def _create_index(name: str, columns: list[str | sa.ColumnElement[object]], condition: str) -> None:
    """Create an index of the waiting jobs that meet *condition*."""
    where = sa.text(f"status = 'submitted' AND {condition}")
    op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
