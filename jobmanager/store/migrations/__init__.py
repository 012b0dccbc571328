"""Alembic migrations of the schema, from an empty database and from every released version."""
