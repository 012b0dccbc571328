"""How views are served that ours is compared to: as ours is, which jobmanager/gunicorn_conf.py says the reasons of."""

import runpy
from pathlib import Path

_ours = runpy.run_path(str(Path(__file__).parents[2] / "jobmanager" / "gunicorn_conf.py"))

worker_class = _ours["worker_class"]
worker_tmp_dir = _ours["worker_tmp_dir"]
control_socket_disable = _ours["control_socket_disable"]
pre_fork = _ours["pre_fork"]


def post_worker_init(worker):
    """Keep the threads that answer on one core."""
    _ours["_serve_on"](worker.core)
