"""Changes of the schema, by Alembic: from an empty database, and from every version that was released."""
