"""Run the jobs of one process: claim them, run each in a thread, deliver halts and stops, keep leases alive.

dispatcher.py is the way in. From there, a claim takes this path: claiming.py → attempt.py → job_calls.py; and a halt
this one: delivery.py → attempt.py → gate.py → lease.py. slots.py knows the runners, watchdog.py ends those that do not
end themselves.
"""
