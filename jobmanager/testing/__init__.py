"""Tests for job types: run a job without a service, and prove that it survives halts, kills and stops anywhere."""

from jobmanager.testing.proof import Verdict, torture
from jobmanager.testing.trial import RunOutcome, run

__all__ = ["RunOutcome", "Verdict", "run", "torture"]
