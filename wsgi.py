"""The WSGI application in this folder: `gunicorn wsgi:app`. Elsewhere, use `jobmanager.wsgi:app`."""

from jobmanager.wsgi import app

__all__ = ["app"]
