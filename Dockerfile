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

# All addresses are bound, so the service starts only with tokens or with JOBMANAGER_INSECURE=1:
#   docker run --rm -v jobs:/var/lib/jobmanager -e JOBMANAGER_TOKENS=/var/lib/jobmanager/tokens jobmanager \
#     jobmanager token add NAME --role operator
#   docker run -v jobs:/var/lib/jobmanager -e JOBMANAGER_TOKENS=/var/lib/jobmanager/tokens -p 8080:8080 jobmanager
#   docker run -v jobs:/var/lib/jobmanager -e JOBMANAGER_INSECURE=1 -p 127.0.0.1:8080:8080 jobmanager
# It needs no capabilities, and writes only to its volume, /tmp and /dev/shm. Workers share their metrics in /dev/shm:
# Docker's default of 64 MiB is enough for a few workers; without space, counts are missing from /metrics.
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --shm-size 256m …
# A container can be replaced without losing a job: gunicorn takes up to 30 seconds after SIGTERM to hand jobs over.
STOPSIGNAL SIGTERM
CMD ["gunicorn", "wsgi:app"]
