"""The number of jobs of each type and status, so that they need not be counted each time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, with the counts of the existing jobs."""
    op.create_table(
        "census",
        sa.Column("type", sa.String(), primary_key=True),
        sa.Column("status", sa.String(), primary_key=True),
        sa.Column("part", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
    )
    op.execute(
        "INSERT INTO census (type, status, part, jobs) SELECT type, status, 0, count(*) FROM jobs GROUP BY type, status"
    )
