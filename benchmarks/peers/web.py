"""Submission over HTTP without our service: a Flask view that takes JSON and submits it to the queue in QUEUE.

The queue `dict` is a dict, which is lost at a restart: it shows the cost of Flask and gunicorn alone.
"""

from __future__ import annotations

import importlib
import os
from typing import Any
from uuid import uuid4

from flask import Flask, request

app = Flask(__name__)


class InMemory:
    """Keeps jobs in a dict."""

    def __init__(self) -> None:
        self._jobs: dict[str, Any] = {}

    def submit(self, job: Any) -> str:
        """Keep a job and return its id."""
        job_id = str(uuid4())
        self._jobs[job_id] = job
        return job_id


queue = (
    InMemory()
    if os.environ["QUEUE"] == "dict"
    else importlib.import_module(f"benchmarks.peers.of_{os.environ['QUEUE']}")
)


@app.post("/submit")
def submit() -> dict[str, Any]:
    """Submit the JSON of the request."""
    job_id = queue.submit(request.get_json())
    return {"jobID": job_id, "message": "Success", "details": {"jobID": job_id, "status": "Submitted"}}


@app.get("/health/live")
def live() -> dict[str, str]:
    """Answer while requests are served."""
    return {"status": "ok"}
