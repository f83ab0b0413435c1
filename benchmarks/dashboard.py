"""Polls of the console and of ``/health``, with two full days of samples, beside one page of Django's own admin."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from benchmarks.common import bar, race, redis_server, surroundings, table

ROUNDS, CALLS = 20, 10
MOST_MS = 50.0
PACKAGES = ("Django", "django-unfold")
SERVICES = ("sample", "control-plane")
OURS, LIVE, HEALTH = "a poll of the start page", "its live part", "/health"
PEER = "the admin's list of users"


def main() -> None:
    with redis_server() as server, tempfile.TemporaryDirectory(prefix="zantara-bench-") as folder:
        os.environ |= {
            "ZANTARA_DATA_DIR": str(Path(folder) / "var"),
            "ZANTARA_REDIS_URL": server.urls["unix"],
            "ZANTARA_SECRET_KEY": "a secret for the benchmark alone, of fifty characters",
            "ZANTARA_LIMITS_SECRET": "a secret for the benchmark alone",
            "ZANTARA_SERVICES": ",".join(f"{name}=http://127.0.0.1:1" for name in SERVICES),
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        }
        print(surroundings(server, PACKAGES))
        sys.stdout.flush()
        measure(Path(folder) / "var")


def measure(data_dir: Path) -> None:
    import django
    from django.core.management import call_command

    data_dir.mkdir()
    django.setup()
    logging.disable()
    call_command("migrate", verbosity=0)
    fill()

    from django.contrib.auth.models import User
    from django.test import Client

    from controlplane.kernel import clock

    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.create_superuser("bench"))
    after = int(clock.now().timestamp() - 90) * 1000

    def ask(path: str) -> None:
        status = client.get(path).status_code
        if status != 200:
            raise RuntimeError(f"{path} answered {status}")

    times = race(
        {
            OURS: lambda: ask(f"/admin/start/figures/?service=sample&range=6h&after={after}"),
            LIVE: lambda: ask("/admin/start/live/"),
            HEALTH: lambda: ask("/health"),
            PEER: lambda: ask("/admin/auth/user/"),
        },
        rounds=ROUNDS,
        calls=CALLS,
        warm_up=5,
    )
    table(
        "Server time of a page, ms (the whole request, in one process)",
        ("", "p50", "p95"),
        [(name, one.p50 / 1000, one.percentile(0.95) / 1000) for name, one in times.items()],
    )
    for name in (OURS, LIVE, HEALTH):
        bar(f"p95 of {name}", times[name].percentile(0.95) / 1000, MOST_MS, "ms")
    bar(f"p50 of a poll beside {PEER}", times[OURS].p50 / times[PEER].p50, 1.0)


def fill() -> None:
    """Two days of rows every 15 s for each service."""
    from controlplane.kernel import clock
    from controlplane.samples.models import Sample

    newest = clock.now().replace(second=0, microsecond=0)
    Sample.objects.bulk_create(
        (
            Sample(
                service=name,
                resolution=15,
                at=newest - timedelta(seconds=15 * n),
                up=True,
                requests_per_second=n % 50,
                error_share=0.0,
                connections=3,
                memory_percent=20,
                p95_seconds=0.1,
                sheds_per_second=0,
                denied_per_second=0,
            )
            for name in SERVICES
            for n in range(48 * 240)
        ),
        batch_size=2000,
    )
