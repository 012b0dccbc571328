"""What a WSGI server loads: `gunicorn wsgi:app`. Opens nothing before the first request, or gunicorn.conf.py's hook."""

from jobmanager.http import create_app

app = create_app()
