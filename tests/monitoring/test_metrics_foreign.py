"""The middleware and /metrics in a Django project that has no app, no database and no setting of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = """
import asyncio
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path


def plain(request):
    return HttpResponse("plain")


async def swift(request):
    return HttpResponse("swift")


settings.configure(
    MIDDLEWARE=["controlplane.monitoring.middleware.MonitoringMiddleware"],
    ROOT_URLCONF="__main__", ALLOWED_HOSTS=["*"], SECRET_KEY="x",
)
django.setup()

from controlplane.monitoring.exposition import metrics

urlpatterns = [path("plain", plain), path("swift", swift), path("metrics", metrics)]

from django.test import AsyncClient, Client

answer = Client().get("/plain")
assert answer.headers["X-Response-Time"].endswith("ms"), answer.headers
assert answer.headers["X-Memory-Delta"].endswith("KB"), answer.headers
assert asyncio.run(AsyncClient().get("/swift")).content == b"swift"
text = Client().get("/metrics").content.decode()
for route in ("/plain", "/swift"):
    labels = f'handler="unknown",method="GET",route="{route}",status="200",user_role="anonymous"'
    assert f"zantara_requests_total{{{labels}}} 1.0" in text, text
assert "zantara_requests_in_flight 1.0" in text, text
assert Client().get("/metrics", REMOTE_ADDR="192.0.2.1").status_code == 403

import sys
ours = [name for name in sys.modules if name in ("ratelimits", "controlplane.settings", "django_prometheus")]
assert ours == [], ours
print("fine")
"""


@pytest.mark.parametrize("shared", [False, True])
def test_a_foreign_project_is_measured_without_a_database(shared: bool, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ZANTARA_", "DJANGO_"))}
    environ["PYTHONPATH"] = str(ROOT)
    if shared:
        environ["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path / "not yet there")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROJECT],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["fine"]), done.stderr
