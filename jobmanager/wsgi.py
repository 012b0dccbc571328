"""The WSGI application: `gunicorn jobmanager.wsgi:app`.

Opens nothing; the manager starts in the worker, after the fork.
"""

import sys

from jobmanager.errors import ConfigError
from jobmanager.http import create_app

try:
    app = create_app()
except ConfigError as error:
    print(f"The service cannot start. {error}", file=sys.stderr, flush=True)
    # With this exit code, gunicorn's master ends instead of restarting the worker. With --preload, this runs in the
    # master.
    sys.exit(4)
