"""What a WSGI server loads: `gunicorn jobmanager.wsgi:app`.

Opens nothing; the manager starts in the worker, after the fork.
"""

import sys

from jobmanager.errors import ConfigError
from jobmanager.http import create_app

try:
    app = create_app()
except ConfigError as error:
    print(f"The service cannot start. {error}", file=sys.stderr, flush=True)
    # The code that has gunicorn's master end, rather than start the worker again; in the master too, with --preload.
    sys.exit(4)
