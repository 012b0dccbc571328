"""What the tests serve to see the routes under a prefix: an application of somebody else's, as in docs/embedding.md."""

from datetime import date
from enum import StrEnum
from typing import Any

from flask import Flask
from pydantic import BaseModel, Field

from jobmanager import Job, JobManager, registry
from jobmanager.http import blueprint


class Level(StrEnum):
    """How much."""

    LOW = "low"
    HIGH = "high"


@registry.register
class Various(Job):
    """Takes an argument of each kind, and returns them."""

    class Args(BaseModel):
        """What a form can ask for."""

        name: str = Field(description="Whose it is.", max_length=8)
        day: date
        level: Level = Level.LOW
        number: int | None = None
        ratio: float = 0.5
        is_trial: bool = False
        is_checked: bool | None = None
        rest: dict[str, list[int]] = Field(default_factory=dict)

    def start(self) -> dict[str, Any]:
        """Return what was given."""
        return self.args.model_dump(mode="json")


@registry.register
class Hostile(Job):
    """Tells what is no fit for a page."""

    def start(self) -> dict[str, str]:
        """Return the name of a file that there is not, written to be read otherwise."""
        self.log.info("\x1b[31mred\x1b[0m \a \u202etxt.exe")
        self.log.info("\u061c\u200b\u200e\u200f\u2060\ufeff\u00ad\u009b\U000e0041")
        self.log.info("x" * 100_000)
        self.log.info("the end")
        return {"file": "fdp.exe", "filename": "\u202efdp.exe"}


@registry.register
class Wordy(Job):
    """Logs more bytes than fit into a page of a log."""

    def start(self) -> None:
        """Log a few long lines."""
        for _ in range(30):
            self.log.info("x" * 100_000)
        self.log.info("the end")


manager = JobManager()

app = Flask(__name__)
# gunicorn.conf.py starts and closes it, as it does for the application of its own.
app.extensions["jobmanager"] = manager
app.register_blueprint(blueprint(manager), url_prefix="/ops")


@app.get("/health/ready")
def ready() -> str:
    """Tell the tests that it answers, at the address at which they ask."""
    return "ok"
