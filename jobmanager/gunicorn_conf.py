"""How gunicorn serves the job manager, whether started by `jobmanager serve` or as `gunicorn wsgi:app`.

Each worker runs jobs in threads of its own. gunicorn forks first; the manager starts in the worker. Nothing here
imports the package before that, so that a reload brings new code.
"""

import contextlib
import gc
import importlib.util
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter


def _raise_descriptor_limit():
    """Let this process and its workers open as many descriptors as the system allows, and return that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


_MOST_DESCRIPTORS = 65_536
_port = os.environ.get("PORT", "").strip() or "8080"
if not (_port.isdecimal() and int(_port) < 2**16):
    sys.exit(f"The service cannot start. PORT must be a whole number up to 65535, not {_port!r}.")
bind = f"{os.environ.get('HOST', '127.0.0.1')}:{_port}"
threads = 16
# How long a worker may take to answer its last requests and hand its jobs over.
graceful_timeout = 30
# Time after which a worker whose loop does not turn is killed. The loop waits for nothing, and turns every second, so
# only a real standstill lasts as long: the interpreter's lock held by C code, or a process that is frozen.
timeout = 120
# Each connection takes a descriptor, and so do the store, the files of jobs and what the log is written to.
worker_connections = min(1000, max(32, _raise_descriptor_limit() - 200))
# No header may say under which prefix or path the application is.
forwarder_headers = ""
# The heartbeat of a worker; its file must not be on a disk that may be slow.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# Nothing here needs the control socket, whose path several services of one user would share.
control_socket_disable = True

_COUNTS = f"jobmanager-{os.getuid()}-"


def _folder_of_counts():
    """Return a folder in which the workers of this server share what they count; it is the same after a reload.

    Not in DATA_DIR: workers count in memory that is mapped to files, and where their volume is full, that is a SIGBUS.
    Folders of servers that were killed are removed, once their processes are gone.
    """
    base = worker_tmp_dir or tempfile.gettempdir()
    for name in os.listdir(base):
        with contextlib.suppress(FileNotFoundError):  # another server that starts removes them too
            if name.startswith(_COUNTS) and not _is_in_use(os.path.join(base, name)):
                shutil.rmtree(os.path.join(base, name), ignore_errors=True)
    folder = os.path.join(base, f"{_COUNTS}{os.getpid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    if os.stat(folder).st_uid != os.getuid():
        return tempfile.mkdtemp(prefix="jobmanager-counts-", dir=base)
    return folder


def _is_in_use(folder):
    """Tell whether a master lives, or a worker that it left behind: the folder and its files are named after them."""
    pids = {os.path.splitext(name)[0].rpartition("-")[2].rpartition("_")[2] for name in [folder, *os.listdir(folder)]}
    return any(os.path.isdir(f"/proc/{pid}") for pid in pids if pid.isdecimal())


with contextlib.suppress(OSError):  # then each worker counts for itself
    # prometheus_client reads it when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _folder_of_counts()

if os.environ.get("JOBMANAGER_LOG", "").strip() == "json":
    # What the master says; each worker sets its own log up.
    logconfig_dict = {
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": ["message", "levelname", "name"],
                "rename_fields": {"levelname": "level", "name": "logger"},
                "timestamp": True,
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {"gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True}},
    }

_SWITCH_SECONDS = 0.0002

_QUITTING = (signal.SIGINT, signal.SIGQUIT)
_LEAVING = (signal.SIGTERM, *_QUITTING)


def _worker_class():
    """Return our worker class, loaded by its path: see the module's docstring."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gunicorn_worker.py")
    spec = importlib.util.spec_from_file_location("jobmanager_gunicorn_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.gthread


worker_class = _worker_class()


def on_starting(server):
    """Refuse what the service cannot start with before there are workers: several that fail would be as many voices.

    A process of its own looks: what this one imports, its workers would have too, and a reload would bring no new code.
    """
    binds = [f"--bind={host}" for host in _hosts(server.cfg.address)]
    alone = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    command = [sys.executable, "-m", "jobmanager", "check", *binds]
    if subprocess.run(command, env=alone, check=False).returncode != 0:
        sys.exit(1)


def pre_fork(server, worker):
    """Choose a core for the worker, of those that the fewest of the others have; two servers begin with others."""
    cores = sorted(os.sched_getaffinity(0))
    first = os.getpid() % len(cores)
    taken = Counter(other.core for other in server.WORKERS.values())
    worker.core = min(cores[first:] + cores[:first], key=taken.__getitem__)


def post_worker_init(worker):
    """Start the manager, so that jobs go on without anyone asking, and have it told at once when it has to leave."""
    from jobmanager import logs, tracing  # noqa: PLC0415 - after the fork: see on_starting
    from jobmanager.errors import StoreUnavailable  # noqa: PLC0415

    manager = worker.wsgi.extensions["jobmanager"]
    logs.set_up(manager.settings.log)
    if manager.settings.has_traces:
        tracing.set_up()
    try:
        manager.start()
    except StoreUnavailable as error:
        worker.log.error("%s The worker serves, and tries again with each request.", error)
    else:
        _serve_on(worker.core)
    for number in _LEAVING:
        signal.signal(number, _leave(worker, signal.getsignal(number)))
    # A thread that computes gives up the interpreter's lock after this time, so that a request need not wait for long.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # What was imported stays for good: to look through all of it again and again costs a batch a third of its time.
    gc.collect()
    gc.freeze()


def worker_exit(server, worker):
    """Hand over what still runs, and close the store."""
    _ignore(_LEAVING)
    application = getattr(worker, "wsgi", None)
    if application is not None:
        application.extensions["jobmanager"].close(_hand_over_seconds(worker))
        from jobmanager import tracing  # noqa: PLC0415 - after the fork: see on_starting

        tracing.shut_down()


def child_exit(server, worker):
    """Forget how many slots and streams a worker had that is gone; what it counted stays.

    Hand over its jobs if it was killed for standing still and they could not be handed over before.
    """
    if worker.aborted and hasattr(worker, "release_jobs"):
        worker.release_jobs()
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - after the fork: see on_starting

    mark_process_dead(worker.pid)


def on_exit(server):
    """Leave no counts behind."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is not None and os.path.basename(folder).startswith("jobmanager-"):
        shutil.rmtree(folder, ignore_errors=True)


def _hosts(addresses):
    """Return what is bound, without sockets in the file system: who may open those is a matter of their folder."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        # systemd hands the sockets over, and gunicorn takes those instead.
        addresses = range(3, 3 + int(os.environ.get("LISTEN_FDS", "0")))
    elif "GUNICORN_FD" in os.environ:
        addresses = [int(number) for number in os.environ["GUNICORN_FD"].split(",")]
    bound = [_address_of(address) if isinstance(address, int) else address for address in addresses]
    return [address[0] for address in bound if isinstance(address, tuple)]


def _address_of(number):
    """Return what an open socket is bound to; leaves it open."""
    with socket.socket(fileno=os.dup(number)) as inherited:
        return inherited.getsockname()


def _leave(worker, as_gunicorn_does):
    """Return a handler that has running jobs handed over before gunicorn does its part."""

    def handle(number, frame):
        if number in _QUITTING:
            # A terminal, systemd and then gunicorn's master send the signal to each worker: gunicorn's handler raises
            # SystemExit, which must not happen again while jobs are handed over.
            _ignore(_LEAVING)
        worker.wsgi.extensions["jobmanager"].begin_shutdown(_hand_over_seconds(worker))
        as_gunicorn_does(number, frame)

    return handle


def _serve_on(core):
    """Keep the threads that answer requests on one core; those of jobs go where they like.

    One of them runs at a time, by the interpreter's lock, and to wake the next on another core takes longer than many
    a request: a worker with 16 threads serves a third more on one core than on two. Threads inherit it from the one
    that makes them, which is this one for requests; the manager's, which makes those of jobs, was started before.
    """
    os.sched_setaffinity(0, {core})


def _hand_over_seconds(worker):
    """Return the time that running jobs have to reach a checkpoint; the rest is for handing them over."""
    return worker.cfg.graceful_timeout * 2 / 3


def _ignore(numbers):
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
