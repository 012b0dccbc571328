"""Idempotency keys: a submission whose key was used before gets the job of the first submission.

Runs inside the transaction that inserts the jobs. retention.py deletes old keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, and_, select, update

from jobmanager.core.states import Action
from jobmanager.core.values import NewJob
from jobmanager.errors import Conflict
from jobmanager.store import statements
from jobmanager.store.database import Database
from jobmanager.store.schema import changes, idempotency_keys


def ids_by_key(database: Database, connection: Connection, new: Sequence[NewJob], now: datetime) -> dict[str, str]:
    """Map the id of each submission to the id of the job that has its key.

    If the key is new or missing, maps the id to itself. Stores the new keys. Raises Conflict if a key was used for
    another submission.
    """
    # Sorted by key, so that two batches with the same keys cannot deadlock.
    return {job.id: _id_by_key(database, connection, job, new, now) for job in sorted(new, key=_stored_key)}


def _id_by_key(database: Database, connection: Connection, job: NewJob, batch: Sequence[NewJob], now: datetime) -> str:
    if job.idempotency_key is None:
        return job.id
    row = {"key": _stored_key(job), "fingerprint": job.fingerprint(), "job_id": job.id, "made_at": now}
    if job.idempotency_scope:
        _scope_older_key(connection, job)
    # Blocks while an open transaction of another process uses the key.
    used = database.insert(idempotency_keys).values(row).on_conflict_do_nothing()
    if connection.execute(used.returning(idempotency_keys.c.key)).first() is not None:
        return job.id
    mine = idempotency_keys.c.key == row["key"]
    earlier = connection.execute(select(idempotency_keys).where(mine).with_for_update()).one()
    if earlier.fingerprint != row["fingerprint"]:
        raise Conflict("The idempotency key was used for another submission; use a new one.")
    found: str = earlier.job_id
    is_there = connection.execute(statements.JOB, {"id_is": found}).first() is not None
    if is_there or any(other.id == found for other in batch):
        return found
    # That job was removed, so the key is free again.
    connection.execute(update(idempotency_keys).where(mine).values(row))
    return job.id


def _stored_key(job: NewJob) -> str:
    """Return the idempotency key as stored. Keys are printable, so the separator cannot occur in one."""
    key = job.idempotency_key or ""
    return f"{job.idempotency_scope}\x1f{key}" if job.idempotency_scope else key


def _scope_older_key(connection: Connection, job: NewJob) -> None:
    """Move the submission's key into its scope if the same actor used the key when keys had no scopes yet."""
    submitted = select(changes.c.seq).where(
        changes.c.job_id == idempotency_keys.c.job_id,
        changes.c.action == Action.SUBMIT,
        changes.c.actor == job.idempotency_scope,
    )
    scoped = idempotency_keys.alias()
    is_taken = select(scoped.c.key).where(scoped.c.key == _stored_key(job)).exists()
    older = and_(idempotency_keys.c.key == job.idempotency_key, submitted.exists(), ~is_taken)
    connection.execute(update(idempotency_keys).where(older).values(key=_stored_key(job)))
