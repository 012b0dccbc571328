"""The example: a job that works in a loop and can be halted between any two steps."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jobmanager.job import Job


class Simple(Job):
    """Works in a loop, one step a second by default."""

    class Args(BaseModel):
        """How long to work. Any further arguments are accepted and ignored."""

        model_config = ConfigDict(extra="ignore")

        steps: int = Field(60, strict=True, ge=0, le=1_000_000_000, description="How many steps to take.")
        seconds: float = Field(1.0, strict=True, ge=0, le=86_400, description="How long a step takes, in seconds.")

    def start(self) -> dict[str, Any]:
        """Take the remaining steps."""
        self.log.info("working from step %d of %d", self.cursor or 0, self.args.steps)
        for step in range(self.cursor or 0, self.args.steps):
            self.wait(self.args.seconds)
            self.checkpoint(cursor=step + 1, done=step + 1, total=self.args.steps)
        return {"steps": self.args.steps}
