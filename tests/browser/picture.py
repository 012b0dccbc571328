"""Take the picture of the dashboard for the README: `python tests/browser/picture.py` writes docs/dashboard.png.

The server that it starts serves this module, which registers the job types in the picture.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from pydantic import BaseModel

from jobmanager import Job, registry
from jobmanager.jobs.export.sample import make_sample

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "server"), str(HERE.parents[1])]

from gunicorn_server import ROOT, Server, until  # noqa: E402 - found by the line above

#: The jobs to submit, oldest first, each with its age in minutes.
JOBS: list[tuple[int, dict[str, Any]]] = [
    (
        192,
        {
            "type": "Export",
            "args": {"from_date": "2023-01-01", "to_date": "2023-12-31"},
            "labels": {"report": "annual"},
        },
    ),
    (
        141,
        {
            "type": "SendReminders",
            "args": {"units": 9_000, "begin": 2_190, "fails": True},
            "labels": {"team": "growth"},
        },
    ),
    (66, {"type": "Recategorise", "args": {"units": 4_200_000, "begin": 3_410_000}, "labels": {"team": "catalogue"}}),
    (
        34,
        {"type": "ImportContacts", "args": {"units": 1_250_000, "begin": 684_000}, "labels": {"customer": "northwind"}},
    ),
    (31, {"type": "ImportContacts", "args": {"units": 610_000, "begin": 502_000}, "labels": {"customer": "contoso"}}),
    (12, {"type": "Recategorise", "args": {"units": 36_000, "begin": 15_800}, "labels": {"ticket": "OPS-311"}}),
    (3, {"type": "Export", "args": {"from_date": "2024-01-01", "to_date": "2024-03-31", "format": "parquet"}}),
    (1, {"type": "ImportContacts", "args": {"units": 88_000, "begin": 3_000}, "labels": {"customer": "fabrikam"}}),
]


class _Pictured(Job):
    """Works through units, as if it had begun long ago."""

    class Args(BaseModel):
        units: int
        begin: int
        fails: bool = False

    def start(self) -> None:
        for done in range(self.cursor or self.args.begin, self.args.units, max(1, self.args.units // 9973)):
            self.checkpoint(cursor=done, done=done, total=self.args.units)
            self.wait(0.05)
            if self.args.fails and done > self.args.begin + 20:
                raise ConnectionError("421 mail.example: too many connections, try again later")


@registry.register
class SendReminders(_Pictured):
    """Reminds people by mail."""


@registry.register
class Recategorise(_Pictured):
    """Moves articles to other categories."""


@registry.register
class ImportContacts(_Pictured):
    """Reads contacts from a file."""


from wsgi import app  # noqa: E402, F401 - the application to serve, imported after the types are registered


def take(server: Server, target: Path) -> None:
    """Submit the jobs, halt one of them, and take the picture."""
    ids = [server.client.post("/jobs", json=job).json()["id"] for _, job in JOBS]
    server.until_status("failed", ids[1])
    server.until_status("completed", ids[0])
    until(lambda: server.job(ids[5])["done"], "progress of the job to halt")
    server.client.post(f"/jobs/{ids[5]}/halt", json={"reason": "the new categories look wrong"})
    server.until_status("halted", ids[5])
    for job_id, (minutes, _) in zip(ids, JOBS, strict=True):
        past = minutes * 60_000_000
        server.execute(
            f"UPDATE jobs SET submitted_at = submitted_at - {past}, running_since = running_since - {past} "
            f"WHERE id = '{job_id}'"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 812}, color_scheme="light")
        page.goto(server.url)
        page.locator(".chip .count").first.wait_for()
        page.screenshot(path=target)
        browser.close()


def main() -> None:
    """Start a server in a temporary folder, and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", app="picture:app", SLOTS=6, CHECKPOINT_SECONDS=0.5)
        make_sample(server.data_dir, rows=200_000)
        try:
            take(server.start("--pythonpath", str(HERE)), ROOT / "docs" / "dashboard.png")
        finally:
            server.close()


if __name__ == "__main__":
    main()
