"""Run the jobs of one process: claim them, run each in a thread, deliver halts and stops, keep leases alive.

dispatcher.py is the entry point. From there, a claim passes through claiming.py → attempt.py → job_calls.py, and a halt
through delivery.py → attempt.py → gate.py → lease.py. slots.py holds the runners of the process. watchdog.py ends
attempts that do not end themselves.
"""
