"""The linter of Prometheus reads what the control plane itself exposes."""

from __future__ import annotations

import subprocess

from django.test import Client

from tests import needs


def test_promtool_finds_nothing_wrong_with_the_metrics_of_the_control_plane(admin_client: Client) -> None:
    promtool = needs.command("promtool", package="prometheus")
    admin_client.get("/admin/")  # sessions, queries, models, cache: what a real one counts
    exposed = admin_client.get("/metrics")
    assert exposed.status_code == 200
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=exposed.content, capture_output=True, check=False, timeout=30
    )
    assert (checked.returncode, checked.stdout.decode(), checked.stderr.decode()) == (0, "", "")
    for name in (b"zantara_requests_total", b"django_db_execute_total", b"django_model_inserts_total"):
        assert name in exposed.content
