"""Lists of jobs: indexes in the order of submission, a table of labels, and the gap between checkpoints."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_PAGE = 1000


def upgrade() -> None:
    """Add the column, the indexes and the table, and copy the labels of existing jobs."""
    op.add_column("jobs", sa.Column("gap_seconds", sa.Float(), nullable=True))
    op.create_index("jobs_by_submission", "jobs", ["submitted_at", "number"], unique=False)
    op.create_index("jobs_by_status", "jobs", ["status", "submitted_at", "number"], unique=False)
    op.create_index("jobs_by_type", "jobs", ["type", "status", "submitted_at", "number"], unique=False)
    labels = op.create_table(
        "labels",
        sa.Column("job_number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_number", "name"),
    )
    _copy_labels(labels)
    op.create_index("labels_by_name", "labels", ["name", "value", "submitted_at", "job_number"], unique=False)
    op.create_index("labels_by_value", "labels", ["value", "submitted_at", "job_number"], unique=False)


def _copy_labels(labels: sa.Table) -> None:
    connection, last = op.get_bind(), 0
    query = "SELECT number, labels, submitted_at FROM jobs WHERE number > :last ORDER BY number LIMIT :page"
    while rows := connection.execute(sa.text(query), {"last": last, "page": _PAGE}).all():
        last = rows[-1].number
        found = [
            {"job_number": row.number, "name": name, "value": value, "submitted_at": row.submitted_at}
            for row in rows
            for name, value in _read(row.labels).items()
        ]
        if found:
            connection.execute(labels.insert(), found)


def _read(value: object) -> dict[str, str]:
    # PostgreSQL returns parsed JSON, SQLite its text.
    parsed = json.loads(value) if isinstance(value, str) else value
    return parsed if isinstance(parsed, dict) else {}
