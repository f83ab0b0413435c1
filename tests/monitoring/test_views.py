from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from controlplane.kernel.registry import Probe, ProbeResult, Registry
from controlplane.monitoring.health import probes

ROOT = Path(__file__).parents[2]


def test_livez_answers_even_a_logged_in_caller_without_a_query_or_a_cookie(
    client: Client, admin_client: Client, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with django_assert_num_queries(0):
        for caller in (client, admin_client):
            answer = caller.get("/livez")
            assert (answer.status_code, answer.content, answer["Cache-Control"]) == (200, b"ok", "no-store")
            assert not answer.cookies


def test_livez_answers_without_redis_and_without_asking_for_it(client: Client, settings: Any) -> None:
    settings.ZANTARA_REDIS_URL = "unix:///nowhere/redis.sock"
    assert client.get("/livez").status_code == 200


def test_readyz_says_pass_with_200(client: Client, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_judge", probes.ReadinessJudge())
    answer = client.get("/readyz")
    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    body = answer.json()
    assert (body["status"], list(body["checks"])) == ("pass", ["database"])
    assert body["checks"]["database"]["status"] == "pass"


def test_readyz_says_fail_with_503_and_no_secret(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> ProbeResult:
        raise ConnectionError("postgres://zt:hunter2@db:5432/zt is away")

    registry: Registry[Probe] = Registry("health probe")
    registry.add("db", Probe("db", "db", broken, critical=True))
    registry.add("nice", Probe("nice", "nice", broken))
    monkeypatch.setattr(probes, "probes", registry)
    monkeypatch.setattr(probes, "_judge", probes.ReadinessJudge())
    answer = client.get("/readyz")
    assert (answer.status_code, answer["Cache-Control"]) == (503, "no-store")
    assert answer.json() == {
        "status": "fail",
        "checks": {"db": {"status": "fail", "summary": "ConnectionError: postgres://zt:***@db:5432/zt is away"}},
    }


def test_health_pages_are_read_only(client: Client) -> None:
    assert (client.post("/livez").status_code, client.post("/readyz").status_code) == (405, 405)


def test_a_foreign_project_without_a_database_is_ready(tmp_path: Path) -> None:
    script = """
import json
from django.conf import settings
settings.configure(
    ROOT_URLCONF="urls", SECRET_KEY="x", ALLOWED_HOSTS=["*"], MIDDLEWARE=[], ZANTARA_REDIS_URL="unix:///nowhere",
)
import django
django.setup()
from controlplane.monitoring.health.builtin import register_builtin_probes
from controlplane.kernel.registry import probes
register_builtin_probes()
from django.test import Client
client = Client()
live, ready = client.get("/livez"), client.get("/readyz")
print(json.dumps([[p.name for p in probes], live.status_code, ready.status_code, ready.json()]))
"""
    (tmp_path / "urls.py").write_text(
        "from django.urls import path\nfrom controlplane.monitoring.health.views import livez, readyz\n"
        "urlpatterns = [path('livez', livez), path('readyz', readyz)]\n"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False, timeout=60,
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [["redis"], 200, 200, {"status": "pass", "checks": {}}]
