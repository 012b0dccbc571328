"""The service over HTTP. Nothing outside this package imports Flask."""

from jobmanager.http.app import blueprint, create_app

__all__ = ["blueprint", "create_app"]
