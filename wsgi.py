"""What a WSGI server loads: `gunicorn wsgi:app`. Opens nothing; the manager starts in the worker, after the fork."""

from gunicorn.errors import AppImportError

from jobmanager.errors import ConfigError
from jobmanager.http import create_app

try:
    app = create_app()
except ConfigError as error:
    # The one error that gunicorn prints as a sentence, and does not answer by starting the worker again.
    raise AppImportError(f"The service cannot start. {error}") from None
