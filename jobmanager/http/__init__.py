"""The service over HTTP. Nothing outside this package imports Flask."""

from jobmanager.http.app import create_app

__all__ = ["create_app"]
