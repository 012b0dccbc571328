"""Connection handling for gunicorn's worker. Imported only after the fork, see gunicorn_worker.py."""
