"""gunicorn's configuration for the peers' views, the same as ours: see jobmanager/gunicorn_conf.py for the reasons."""

import runpy
import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).parents[2]

# The worker class imports modules of the second package; what the first imports is not installed here.
for _name in ("jobmanager", "jobmanager.serving"):
    _package = ModuleType(_name)
    _package.__path__ = [str(_ROOT / _name.replace(".", "/"))]
    sys.modules[_name] = _package

_ours = runpy.run_path(str(_ROOT / "jobmanager" / "gunicorn_conf.py"))

worker_class = _ours["worker_class"]
worker_tmp_dir = _ours["worker_tmp_dir"]
control_socket_disable = _ours["control_socket_disable"]
pre_fork = _ours["pre_fork"]


def post_worker_init(worker):
    """Pin the threads that answer requests to one core."""
    from jobmanager.serving import core_pinning  # noqa: PLC0415 - as ours does, after the fork

    core_pinning.pin_later_threads(worker.core)
