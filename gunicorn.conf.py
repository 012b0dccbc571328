"""How `gunicorn wsgi:app` serves in this folder: as `jobmanager serve` does everywhere."""

from pathlib import Path

# Not imported: gunicorn's master would keep the package for its workers, and a reload would bring them no new code.
_PATH = Path(__file__).parent / "jobmanager" / "gunicorn_conf.py"
__file__ = str(_PATH)  # it loads what lies beside it
exec(compile(_PATH.read_text(encoding="utf-8"), _PATH, "exec"), globals())
