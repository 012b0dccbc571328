"""gunicorn's configuration, used by `jobmanager serve` and by `gunicorn wsgi:app`.

Each worker runs jobs in its own threads; the manager starts in the worker, after the fork. The master never imports the
package: after a reload, new workers would inherit the old code from it.
"""

import contextlib
import importlib.util
import mmap
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter


def _raise_descriptor_limit():
    """Raise the limit of open descriptors as far as the system allows, to 65,536 at most. Return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in _MOST_DESCRIPTORS:
        wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
        if wanted <= soft or soft == resource.RLIM_INFINITY:
            return wanted
        # macOS refuses more than kern.maxfilesperproc, even below the hard limit. That value is at least 10,240.
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft


_MOST_DESCRIPTORS = (65_536, 10_240)
_port = os.environ.get("PORT", "").strip() or "8080"
if not (_port.isdecimal() and int(_port) < 2**16):
    sys.exit(f"The service cannot start. PORT must be a whole number up to 65535, not {_port!r}.")
bind = f"{os.environ.get('HOST', '127.0.0.1')}:{_port}"
threads = 16
# Seconds for a stopping worker to answer its last requests and to hand over its jobs.
graceful_timeout = 30
# A worker is killed if its loop has not turned for this many seconds. The loop never blocks and turns every second, so
# only a worker that hangs is killed: because C code holds the GIL, or because the process is frozen.
timeout = 120
# One descriptor for each connection; 200 are left for the store, the files of jobs and the log.
worker_connections = min(1000, max(32, _raise_descriptor_limit() - 200))
# No request header may set SCRIPT_NAME or PATH_INFO.
forwarder_headers = ""
# Workers update their heartbeat files here: not on a disk, which may be slow.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
# The control socket is not needed, and several services of one user would share its path.
control_socket_disable = True

_FOLDER_PREFIX = f"jobmanager-{os.getuid()}-"


def _make_metrics_folder():
    """Make the folder in which the workers of this server share their metrics; it is the same after a reload.

    The folder is not in DATA_DIR: metrics are written through mmap, and if the volume is full, a write ends the process
    with SIGBUS.
    Removes the folders of killed servers whose processes have all ended.
    """
    base = worker_tmp_dir or tempfile.gettempdir()
    for name in os.listdir(base):
        with contextlib.suppress(FileNotFoundError):  # another server may remove it first
            if name.startswith(_FOLDER_PREFIX) and not _is_in_use(os.path.join(base, name)):
                shutil.rmtree(os.path.join(base, name), ignore_errors=True)
    folder = os.path.join(base, f"{_FOLDER_PREFIX}{os.getpid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    if os.stat(folder).st_uid != os.getuid():
        return tempfile.mkdtemp(prefix="jobmanager-counts-", dir=base)
    return folder


def _is_in_use(folder):
    """Return True if the master or one of its workers lives: the folder and its files are named after their pids."""
    pids = {os.path.splitext(name)[0].rpartition("-")[2].rpartition("_")[2] for name in [folder, *os.listdir(folder)]}
    return any(_lives(int(pid)) for pid in pids if pid.isdecimal())


def _lives(pid):
    """Return True if there is a process with this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


with contextlib.suppress(OSError):  # without the folder, each worker shows its own metrics only
    # prometheus_client reads the variable when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _make_metrics_folder()

if os.environ.get("JOBMANAGER_LOG", "").strip() == "json":
    # The master's log; each worker sets up its own.
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

#: After a reload, old workers go on until a new worker serves, but no longer than this.
_RELOAD_SECONDS = 20.0
#: Indexes in `server.reloads`: the number of the last reload, and the number of the reload whose workers serve.
_LAST_RELOAD, _SERVING = range(2)
_QUICK_STOP_SIGNALS = (signal.SIGINT, signal.SIGQUIT)
_STOP_SIGNALS = (signal.SIGTERM, *_QUICK_STOP_SIGNALS)


def _worker_class():
    """Load our worker class by its path, without importing the package."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gunicorn_worker.py")
    spec = importlib.util.spec_from_file_location("jobmanager_gunicorn_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.gthread


worker_class = _worker_class()


def on_starting(server):
    """Validate the settings once in the master, so that N workers do not print N errors. Exit with 1 if one is invalid.

    Runs `jobmanager check` in its own process: workers would inherit the modules imported here, even after a reload.
    """
    binds = [f"--bind={host}" for host in _hosts(server.cfg.address)]
    alone = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    command = [sys.executable, "-m", "jobmanager", "check", *binds]
    if subprocess.run(command, env=alone, check=False).returncode != 0:
        sys.exit(1)


def on_reload(server):
    """Count the reload. The old workers go on until a new one serves."""
    reloads = _reloads(server)
    reloads[_LAST_RELOAD] = (reloads[_LAST_RELOAD] + 1) % 256


def pre_fork(server, worker):
    """Give the worker the counter of reloads, note its value at the fork, and choose a core for the worker."""
    worker.reloads = _reloads(server)
    worker.reload = worker.reloads[_LAST_RELOAD]
    worker.core = _least_used_core(server)


def _least_used_core(server):
    """Return the core that the fewest workers use; None if the system cannot pin threads (macOS).

    The master's pid decides between equals, so that several servers spread.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    first = os.getpid() % len(cores)
    used = Counter(getattr(other, "core", None) for other in server.WORKERS.values())
    return min(cores[first:] + cores[:first], key=used.__getitem__)


def _reloads(server):
    """Return the bytes that the master shares with its workers; see _LAST_RELOAD.

    Makes the bytes at the first call: a master that an earlier version started, and that reloads this one, lacks them.
    """
    if not hasattr(server, "reloads"):
        server.reloads = mmap.mmap(-1, 2)
    return server.reloads


def post_worker_init(worker):
    """Start the manager before the first request, so that jobs go on. Let stop signals begin its shutdown at once."""
    from jobmanager.errors import StoreUnavailable  # noqa: PLC0415
    from jobmanager.observability import logs, tracing  # noqa: PLC0415 - after the fork: see on_starting
    from jobmanager.serving import core_pinning, frozen_imports, switch_interval  # noqa: PLC0415

    manager = worker.wsgi.extensions["jobmanager"]
    logs.set_up(manager.settings.log)
    if manager.settings.has_traces:
        tracing.set_up()
    try:
        manager.start()
    except StoreUnavailable as error:
        worker.log.error("%s The worker serves requests, and retries with each of them.", error)
    else:
        core_pinning.pin_later_threads(worker.core)
    for number in _STOP_SIGNALS:
        signal.signal(number, _shutdown_handler(worker, signal.getsignal(number)))
    if worker.reload == worker.reloads[_LAST_RELOAD]:
        worker.reloads[_SERVING] = worker.reload
    switch_interval.shorten()
    frozen_imports.freeze()


def worker_exit(server, worker):
    """Hand over the running jobs, close the store and send the last traces. Blocks."""
    _ignore(_STOP_SIGNALS)
    application = getattr(worker, "wsgi", None)
    if application is not None:
        application.extensions["jobmanager"].close(_hand_over_seconds(worker))
        from jobmanager.observability import tracing  # noqa: PLC0415 - after the fork: see on_starting

        tracing.shut_down()


def child_exit(server, worker):
    """Remove the slots and streams of a dead worker from the metrics; its counters and histograms stay.

    If the worker was killed because it hung, hand over its jobs, unless that was done before.
    """
    if worker.aborted and hasattr(worker, "release_jobs"):
        worker.release_jobs()
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - after the fork: see on_starting

    mark_process_dead(worker.pid)


def on_exit(server):
    """Remove the folder of the shared metrics."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is not None and os.path.basename(folder).startswith("jobmanager-"):
        shutil.rmtree(folder, ignore_errors=True)


def _hosts(addresses):
    """Return the hosts that are bound. Leaves out Unix sockets, whose folder decides who may connect."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        # Socket activation: gunicorn uses the sockets of systemd instead of the configured addresses.
        addresses = range(3, 3 + int(os.environ.get("LISTEN_FDS", "0")))
    elif "GUNICORN_FD" in os.environ:
        addresses = [int(number) for number in os.environ["GUNICORN_FD"].split(",")]
    bound = [_address_of(address) if isinstance(address, int) else address for address in addresses]
    return [address[0] for address in bound if isinstance(address, tuple)]


def _address_of(number):
    """Return the address that an open socket is bound to. Leaves the socket open."""
    with socket.socket(fileno=os.dup(number)) as inherited:
        return inherited.getsockname()


def _shutdown_handler(worker, gunicorn_handler):
    """Return a signal handler that begins the shutdown of the manager, then calls gunicorn's handler.

    At a reload, the master sends SIGTERM to the old workers as soon as it has forked the new ones, which need seconds
    to import the application. So this worker goes on until a new one serves. SIGINT, SIGQUIT or a second SIGTERM ends
    it at once.
    """
    signals = []

    def handle(number, frame):
        signals.append(number)
        if signals == [signal.SIGTERM] and worker.reload != worker.reloads[_LAST_RELOAD]:
            threading.Thread(target=_leave_after_reload, args=(worker,), daemon=True).start()
            return
        if number in _QUICK_STOP_SIGNALS:
            # The signal may come twice: from the terminal or systemd, and from the master. gunicorn's handler raises
            # SystemExit, which must not interrupt the handover.
            _ignore(_STOP_SIGNALS)
        worker.wsgi.extensions["jobmanager"].begin_shutdown(_hand_over_seconds(worker))
        gunicorn_handler(number, frame)

    return handle


def _leave_after_reload(worker):
    """Wait until a worker that was forked after the last reload serves, then end this worker by a second SIGTERM.

    Waits no longer than _RELOAD_SECONDS.
    """
    deadline = time.monotonic() + _RELOAD_SECONDS
    while worker.reloads[_SERVING] != worker.reloads[_LAST_RELOAD] and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def _hand_over_seconds(worker):
    """Return how long running jobs have to reach a checkpoint. The rest of graceful_timeout is for the handover."""
    return worker.cfg.graceful_timeout * 2 / 3


def _ignore(numbers):
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
