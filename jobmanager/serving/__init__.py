"""What gunicorn's worker needs to serve connections. Imported after the fork only, see gunicorn_worker.py."""
