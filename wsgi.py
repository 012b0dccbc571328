"""What a WSGI server loads in this folder: `gunicorn wsgi:app`; elsewhere it is `jobmanager.wsgi:app`."""

from jobmanager.wsgi import app

__all__ = ["app"]
