"""The service that the one-machine stack begins with: the sample, behind the edge, deployed as its first release.

Idempotent; what an operator has changed stays. What was there once and was deleted stays deleted: its history says
that it was there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction

import controlplane
from controlplane.kernel import clock
from controlplane.kernel.env import Env

from .models import Deployment, DeploymentStage, PipelineStep, Release, Service
from .stages import SEED

log = structlog.get_logger(__name__)

SERVICE = "zantara"
#: In a service's history: the seed wrote it. As long as nobody else has, its port follows the environment.
SEEDED = "by the seed"
#: With three instances about as many as the two processes had before the edge: more would queue for the interpreter.
THREADS = 5
#: What the sample needs of the stack's environment; the control plane's own secrets are not among it.
INHERITED = [
    "ZANTARA_DATA_DIR", "ZANTARA_REDIS_URL", "ZANTARA_CHROMA_URL", "ZANTARA_JWT_*", "ZANTARA_LIMITS_*",
    "ZANTARA_METRICS_*", "ZANTARA_RATELIMIT_HEADERS", "ZANTARA_IPV6_PREFIX", "ZANTARA_LOG_*", "ZANTARA_ALLOWED_HOSTS",
    "ZANTARA_SHEDDING_*", "ZANTARA_SLOW_REQUEST_SECONDS", "ZANTARA_LARGE_REQUEST_BYTES",
]  # fmt: skip
COMMAND = (
    "{python} -m granian --interface wsgi --host 127.0.0.1 --port {port} --workers 1 "
    f"--blocking-threads {THREADS} --respawn-failed-workers --workers-kill-timeout 5 --no-ws --http 1 "
    "examples.zantara.wsgi:application"
)


@dataclass(frozen=True)
class Seeded:
    """Names of what was made now."""

    service: str = ""
    deployment: str = ""


def seed(*, env: Env | None = None, now: datetime | None = None) -> Seeded:
    """Make what is missing, where the stack has an edge and the sample's code is here."""
    env, now = env or Env(), now or clock.now()
    port = env.port("ZANTARA_EDGE_PORT", 0) if env.text("ZANTARA_EDGE_PORT") else None
    if port is None or find_spec("examples") is None:
        return Seeded()
    with transaction.atomic():
        if Service.history.filter(name=SERVICE).exists():
            _follow(port, env)
            return Seeded()
        service = _service(port, env)
        deployment = _first_deployment(service, now)
    log.info("deployments_seeded", service=service.name, deployment=deployment)
    return Seeded(service.name, deployment)


def _wanted(port: int, env: Env) -> dict[str, Any]:
    count = env.integer("ZANTARA_SAMPLE_INSTANCES", 3, least=0, most=20)
    metrics = Path(settings.ZANTARA_DATA_DIR) / "run" / "metrics" / SERVICE
    return {
        "instances": count,
        "edge_port": port,
        "environ": {
            "DJANGO_SETTINGS_MODULE": "examples.zantara.settings",
            # The edge alone is its client: what it says of the caller's address is true.
            "ZANTARA_TRUSTED_PROXIES": "127.0.0.1/32",
            # All instances count in one folder, so that any of them tells the service's total.
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            # The service's connections are those at the edge.
            "ZANTARA_SERVICE_PORT": str(port),
            "ZANTARA_LIMITS_PROCESSES": str(max(1, count)),
            "ZANTARA_THREADS": str(THREADS),
            "PYTHONUNBUFFERED": "1",
        },
    }


def _service(port: int, env: Env) -> Service:
    from backups.models import BackupPlan
    from backups.seed import PLAN

    from .pipeline.seeded import seeded_steps
    from .targets import targets

    service = Service(
        name=SERVICE,
        description="The sample service.",
        target_kind="process",
        target_settings=targets.get("process").check_settings({"command": COMMAND, "inherit_environ": INHERITED}),
        health_map={"database": "redis", "vector_store": "chroma"} if settings.ZANTARA_CHROMA_URL else {
            "database": "redis"
        },
        backup_plan=BackupPlan.objects.filter(name=PLAN).first(),
        **_wanted(port, env),
    )  # fmt: skip
    service._change_reason = SEEDED  # type: ignore[attr-defined]  # read by simple_history
    service.full_clean()
    service.save()
    for stage in SEED:
        percentage = Decimal(stage.permille) / 10
        DeploymentStage(service=service, percentage=percentage, bake_seconds=stage.bake_seconds).save()
    for row in seeded_steps():
        PipelineStep(service=service, **row).save()
    return service


def _first_deployment(service: Service, now: datetime) -> str:
    """This very code, in place: it is what the operator has just installed, so it skips pipeline and stages."""
    from .engine.requests import create_release, request_deployment

    root = Path(controlplane.__file__).resolve().parents[1]
    release = create_release(
        service, controlplane.__version__, source_kind=Release.Source.DIRECTORY, source=str(root),
        created_by="bootstrap", now=now,
    )  # fmt: skip
    deployment = request_deployment(
        service, release, trigger=Deployment.Trigger.FIRST, requested_by="bootstrap", reason="the first release",
        skips_pipeline=True, at_once=True, now=now,
    )  # fmt: skip
    return deployment.name


def _follow(port: int, env: Env) -> None:
    """A service that nobody has edited goes where the environment says today."""
    service = Service.objects.filter(name=SERVICE).first()
    if service is None or Service.history.filter(name=SERVICE).latest().history_change_reason != SEEDED:
        return
    wanted = _wanted(port, env)
    if all(getattr(service, name) == value for name, value in wanted.items()):
        return
    for name, value in wanted.items():
        setattr(service, name, value)
    service._change_reason = SEEDED  # type: ignore[attr-defined]
    service.save()
