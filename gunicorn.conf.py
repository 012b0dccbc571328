"""How gunicorn serves the job manager; read by `gunicorn wsgi:app` in this folder.

Each worker runs jobs in threads of its own. gunicorn forks first; the manager starts in the worker.
"""

import os
import signal

from gunicorn.errors import AppImportError

from jobmanager.errors import ConfigError, StoreUnavailable

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8080')}"
worker_class = "gthread"
threads = 16
# How long a worker may take to answer its last requests and hand its jobs over.
graceful_timeout = 30
# The time of it that running jobs have to reach a checkpoint; the rest is for handing them over.
hand_over_seconds = 20
# The heartbeat of a worker; its file must not be on a disk that may be slow.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# Nothing here needs the control socket, whose path several services of one user would share.
control_socket_disable = True


def post_worker_init(worker):
    """Start the manager, so that jobs go on without anyone asking, and have it told of a SIGTERM at once."""
    manager = worker.wsgi.extensions["jobmanager"]
    try:
        manager.start()
    except ConfigError as error:
        raise AppImportError(f"The service cannot start. {error}") from None
    except StoreUnavailable as error:
        worker.log.error("%s The worker serves, and tries again with each request.", error)
    leave = signal.getsignal(signal.SIGTERM)

    def begin_shutdown(number, frame):
        manager.begin_shutdown(hand_over_seconds)
        leave(number, frame)

    signal.signal(signal.SIGTERM, begin_shutdown)


def worker_exit(server, worker):
    """Hand over what still runs, and close the store."""
    application = getattr(worker, "wsgi", None)
    if application is not None:
        application.extensions["jobmanager"].close(hand_over_seconds)
