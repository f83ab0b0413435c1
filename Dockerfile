# The control plane's image: runtime dependencies only, one unprivileged user, nothing written outside /data.
# It builds with the classic builder too: no BuildKit-only instruction is used.
ARG BASE=python:3.12-slim-trixie
FROM ${BASE}

# What backups are made, proven and restored with. Debian 13 has PostgreSQL 17, as docker-compose.yml does: a dump is
# restored by programs of the version that made it. The server is for drills, which make a cluster of their own.
RUN apt-get update \
    && apt-get install -y --no-install-recommends age zstd tar postgresql-common \
    && sed -i 's/^#\? *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
    && apt-get install -y --no-install-recommends postgresql \
    && rm -rf /var/lib/apt/lists/*

ENV PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv
COPY requirements/runtime.txt /tmp/runtime.txt
RUN pip install --no-cache-dir --require-hashes -r /tmp/runtime.txt && rm /tmp/runtime.txt

WORKDIR /app
COPY manage.py pyproject.toml ./
COPY controlplane controlplane
COPY ratelimits ratelimits
COPY backups backups
COPY examples examples
COPY docs docs
RUN python -m compileall -q . && useradd --system --home-dir /data --uid 10001 zantara && install -d -o zantara /data

USER zantara
ENV ZANTARA_DATA_DIR=/data
VOLUME /data
EXPOSE 8000
CMD ["granian", "--interface", "wsgi", "--host", "0.0.0.0", "--port", "8000", "--workers", "2", "--blocking-threads", "8", "--respawn-failed-workers", "--workers-kill-timeout", "5", "controlplane.wsgi:application"]
