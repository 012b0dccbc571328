"""What the tests serve to see the routes under a prefix: an application of somebody else's, as in docs/embedding.md."""

from flask import Flask

from jobmanager import JobManager
from jobmanager.http import blueprint

manager = JobManager()

app = Flask(__name__)
# gunicorn.conf.py starts and closes it, as it does for the application of its own.
app.extensions["jobmanager"] = manager
app.register_blueprint(blueprint(manager), url_prefix="/ops")


@app.get("/health/ready")
def ready() -> str:
    """Tell the tests that it answers, at the address at which they ask."""
    return "ok"
