"""Record the outcomes of attempts, and claim the next jobs for their slots. Several threads share a commit.

core/outcomes.py decides what an outcome means for the job; lifecycle.py writes it.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Status
from jobmanager.core.transitions import Move, Values
from jobmanager.core.values import Applied, JobRecord, Wanted
from jobmanager.errors import LeaseLost
from jobmanager.store.claims import Claims
from jobmanager.store.database import Database
from jobmanager.store.lifecycle import Lifecycle
from jobmanager.store.loading import JobLoader
from jobmanager.store.owner import Owner
from jobmanager.store.unread_settlements import Ended, settle_unread


class Settlements:
    """Ends attempts of this process."""

    def __init__(
        self, database: Database, lifecycle: Lifecycle, loader: JobLoader, claims: Claims, owner: Owner
    ) -> None:
        self._database = database
        self._lifecycle = lifecycle
        self._loader = loader
        self._claims = claims
        self._owner = owner

    def settle(
        self,
        job_id: str,
        attempt: int,
        settlement: Settlement,
        *,
        unless: Collection[Status],
        parked: bool,
        wanted: Wanted | None,
        seen: JobRecord | None,
    ) -> Applied | None:
        """Record the outcome of an attempt of this process; committed when this returns.

        *unless*: if the job has one of these statuses, nothing is written and None is returned.
        *parked*: keep the lease, because the thread stays with the job and may be woken.
        *wanted*: claim another job for the slot in the same commit.
        *seen*: the job as this attempt claimed it. If its status is still the same, the job is not read again, and the
        returned job lacks the values that were saved after the claim.
        Raises LeaseLost, NotAllowed or StoreUnavailable.
        """
        values: Values = {"failures": settlement.failures, "error": settlement.error, "result": settlement.result}
        if settlement.run_at is not None:
            values["run_at"] = settlement.run_at
        if not parked:
            values |= {"owner": None, "lease_expires_at": None}
        action = settlement.action
        ended = Ended(
            job_id=job_id, attempt=attempt, action=action, values=values, unless=unless, wanted=wanted, seen=seen
        )
        return self._database.run_together(self._settle_all, ended)

    def _settle_all(self, connection: Connection, ended: list[Ended]) -> list[Applied | None]:
        """Record the outcomes of several attempts, and claim the wanted jobs for the free slots."""
        applied = settle_unread(self._lifecycle, connection, ended) or self._settle_reloaded(connection, ended)
        wanting = [place for place, one in enumerate(ended) if one.wanted is not None and applied[place] is not None]
        claimed = self._claim_instead(connection, [wanted for place in wanting if (wanted := ended[place].wanted)])
        for place, job in zip(wanting, claimed, strict=False):
            if came := applied[place]:
                applied[place] = Applied(job=came.job, change=came.change, claimed=job)
        self._database.announce(connection)
        return applied

    def _settle_reloaded(self, connection: Connection, ended: list[Ended]) -> list[Applied | None]:
        """Record the outcomes after reading the jobs, which may have changed meanwhile. Raises LeaseLost."""
        found = {job.id: job for job in self._loader.load_each_locked(connection, [one.job_id for one in ended])}
        moves: list[Move] = []
        for one in ended:
            job = found.get(one.job_id)
            if job is None or (job.attempt, job.owner) != (one.attempt, self._owner.name):
                raise LeaseLost(one.job_id)
            if job.status not in one.unless:
                moves.append(self._lifecycle.decide(job, one.action, one.values))
        applied = {came.job.id: came for came in self._lifecycle.move_all(connection, moves)}
        return [applied.get(one.job_id) for one in ended]

    def _claim_instead(self, connection: Connection, wanted: list[Wanted]) -> list[JobRecord]:
        """Claim one job for each thread that has become free; fewer if not enough jobs wait."""
        if not wanted:
            return []
        if not wanted[0].max_running:
            return self._claims.claim_waiting(connection, wanted[0], len(wanted))
        claimed: list[JobRecord] = []
        for one in wanted:
            if not (added := self._claims.claim_waiting(connection, one, 1)):
                break
            claimed += added
        return claimed
