FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOST=0.0.0.0 \
    PORT=8080 \
    JOBMANAGER_DATA_DIR=/var/lib/jobmanager

WORKDIR /app

COPY requirements.txt ./
RUN pip install -r requirements.txt

COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY jobmanager jobmanager
RUN pip install --no-deps .

COPY wsgi.py gunicorn.conf.py ./
RUN useradd --system --uid 10001 --home-dir /var/lib/jobmanager --create-home jobmanager
USER jobmanager

VOLUME /var/lib/jobmanager
EXPOSE 8080

HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD python -c "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health/ready', timeout=4)"

# One process is replaced by the next without losing a job: gunicorn needs up to 30 seconds after SIGTERM.
STOPSIGNAL SIGTERM
CMD ["gunicorn", "wsgi:app"]
