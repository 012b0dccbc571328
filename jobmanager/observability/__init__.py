"""Metrics, traces and logs. A failure here never affects a job."""
