"""gunicorn's configuration in this folder, the same as that of `jobmanager serve`."""

from pathlib import Path

# Not imported: workers would inherit the package from the master, and keep the old code after a reload.
_PATH = Path(__file__).parent / "jobmanager" / "gunicorn_conf.py"
__file__ = str(_PATH)  # it loads gunicorn_worker.py, which lies beside it
exec(compile(_PATH.read_text(encoding="utf-8"), _PATH, "exec"), globals())
