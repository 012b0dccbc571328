"""What befalls a server in the campaigns: each fault strikes, and returns when there is somebody who answers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
from gunicorn_server import LEASE_SECONDS, Server, stopped, until


class Faults:
    """What befalls a server on any database."""

    def __init__(self, server: Server) -> None:
        self.struck: Counter[str] = Counter()
        self._server = server

    def strike(self, rng: random.Random) -> None:
        """Let one thing happen: each of those that may, once, in any order; then whatever chance picks."""
        weights = self.choice()
        names = [name for name in weights if not self.struck[name]] or list(weights)
        name = rng.choices(names, [weights[name] for name in names])[0]
        getattr(self, name)(rng)
        self.struck[name] += 1
        until(self._server.answers, self._server.log)  # of the workers, some may be at their start yet

    def choice(self) -> dict[str, float]:
        """Return what may happen, and how often."""
        return {"kill_a_worker": 8, "kill_everything": 2, "damage_a_part": 1, "freeze_a_worker": 2}

    def end(self) -> None:
        """Have the times come that jobs wait for; here they come by themselves."""

    def kill_a_worker(self, rng: random.Random) -> None:
        if workers := self._server.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)

    def kill_everything(self, rng: random.Random) -> None:
        self._server.restart()

    def freeze_a_worker(self, rng: random.Random) -> None:
        """Freeze a worker until its leases have ended and others could take its jobs; then let it go on.

        Where it is in the middle of a transaction, they cannot: then it only holds everybody up.
        """
        if workers := self._server.worker_pids():
            with contextlib.suppress(ProcessLookupError), stopped(rng.choice(workers)):
                time.sleep(LEASE_SECONDS + rng.uniform(0.5, 1.5))

    def damage_a_part(self, rng: random.Random) -> None:
        """Cut off, or change, what an unfinished export has written and its checkpoint claims."""
        parts: list[tuple[Path, int]] = []
        while not parts:
            until(self._claimed_parts, "an export that is under way", seconds=60, every=0.1)
            self._server.kill9()
            parts = self._claimed_parts()
            if not parts:  # it was just about to end
                self._server.start()
        for path, length in rng.sample(parts, rng.randint(1, len(parts))):
            damage(path, rng.randrange(length), rng)
        self._server.start()

    def _claimed_parts(self) -> list[tuple[Path, int]]:
        """Return the part of each export that has to go on from one, and how many of its bytes are claimed.

        Those that claim nothing yet, and those that have been cut off before, are left out.
        """
        unfinished = "status IN ('submitted', 'running', 'halting', 'halted')"
        rows = self._server.rows(
            f"SELECT id, cursor FROM jobs WHERE type = 'Export' AND cursor IS NOT NULL AND {unfinished}"
        )
        cursors = {row["id"]: as_json(row["cursor"]) for row in rows}
        # A cursor has its plan before it has a part.
        begun = {job: cursor for job, cursor in cursors.items() if "part" in cursor}
        parts = [(self._server.folder(job) / cursor["part"], cursor["bytes"]) for job, cursor in begun.items()]
        return [(path, length) for path, length in parts if 0 < length <= _size(path)]


class FaultsOfOneWorker(Faults):
    """What befalls a server with nobody to take over."""

    def choice(self) -> dict[str, float]:
        """Return what may happen, and how often."""
        return {"kill_everything": 3, "damage_a_part": 1, "step_the_clock": 1}

    def end(self) -> None:
        """Set the clock on, beyond all that it has said: a retry waits until a time, longer if that was set back."""
        set_clock(self._server, 3 * 3600)

    def step_the_clock(self, rng: random.Random) -> None:
        """Set the wall clock wrong by up to two hours, in either direction."""
        set_clock(self._server, rng.uniform(-7200, 7200))


class FaultsOfTwoWorkers(FaultsOfOneWorker):
    """What befalls a server of which a part may live on."""

    def choice(self) -> dict[str, float]:
        """Return what may happen, and how often."""
        return Faults.choice(self) | {"step_the_clock": 1}


class FaultsOfVolume(FaultsOfTwoWorkers):
    """What befalls a server whose data are on a volume of their own."""

    def choice(self) -> dict[str, float]:
        """Return what may happen, and how often."""
        return super().choice() | {"fill_the_volume": 1}

    def fill_the_volume(self, rng: random.Random) -> None:
        """Leave no byte free for a moment."""
        filler = self._server.data_dir / "filler"
        fill(filler)
        time.sleep(rng.uniform(0.2, 1.0))
        filler.unlink()


class FaultsOfPostgres(Faults):
    """What befalls a server and its database."""

    def __init__(self, server: Server, postgres: Any, url: str) -> None:
        super().__init__(server)
        self._postgres = postgres
        self._url = url

    def choice(self) -> dict[str, float]:
        """Return what may happen, and how often."""
        return super().choice() | {"restart_postgres": 2, "cut": 4}

    def restart_postgres(self, rng: random.Random) -> None:
        self._postgres.stop()
        time.sleep(rng.uniform(0, 0.5))
        self._postgres.ensure_postgres_running()

    def cut(self, rng: random.Random) -> None:
        """Cut every connection to the database."""
        mine = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid) {mine}")


def set_clock(server: Server, seconds: float) -> None:
    """Set the wall clock that the server reads wrong by so many seconds."""
    clock = server.data_dir.parent / "clock"
    unseen = clock.with_suffix(".new")
    unseen.write_text(str(seconds), encoding="ascii")
    unseen.replace(clock)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def damage(path: Path, at: int, rng: random.Random) -> None:
    """Cut a file off at a place, or change the byte that is there."""
    with open(path, "r+b") as file:
        if rng.random() < 0.5:
            file.truncate(at)
            return
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ rng.randint(1, 255)]))


def fill(path: Path) -> None:
    """Leave no byte free on the volume of *path*."""
    with open(path, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            # Most of it at once; the rest by bytes, for others write meanwhile.
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(path.parent).free)
        file.seek(0, os.SEEK_END)
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


def as_json(value: Any) -> Any:
    """Return what a column of JSON holds; SQLite has it as text."""
    return json.loads(value) if isinstance(value, str) else value
