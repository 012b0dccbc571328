"""Traces: the trace context of the request that submitted a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Existing jobs do not belong to a trace."""
    op.add_column("jobs", sa.Column("traceparent", sa.String(), nullable=True))
