"""The plan that every installation begins with, and its first run. Idempotent; what an operator has changed stays.

Whatever was there once and was deleted stays deleted: its history says that it was there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction

from controlplane.kernel import clock
from controlplane.kernel.env import Env
from controlplane.kernel.errors import Refused

from . import beat
from .models import BackupPlan, BackupRecord, BackupSource, StorageTarget
from .sources.base import kinds

log = structlog.get_logger(__name__)

PLAN, TARGET = "zantara", "local"
#: In a source's history: the seed wrote it. As long as nobody else has, its addresses follow the environment.
SEEDED = "by the seed"
#: The role whose callers may read and write all vectors of the managed service.
VECTORS_ROLE = "AI Bridge/Tech Lead"


@dataclass(frozen=True)
class Seeded:
    """Names of what was made now; ``first_run`` is the record that was asked for."""

    target: str = ""
    sources: tuple[str, ...] = ()
    plan: str = ""
    first_run: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.target or self.sources or self.plan or self.first_run)


@dataclass(frozen=True)
class _Wanted:
    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)


def seed(*, env: Env | None = None, first_run: bool = True, now: datetime | None = None) -> Seeded:
    """Make what is missing. ``first_run`` asks for the plan's first backup, which is then drilled, if it had none."""
    env, now = env or Env(), now or clock.now()
    with transaction.atomic():
        target, made_target = _target()
        sources, made_sources = _sources(env)
        plan, made_plan = _plan(target, sources)
        if plan is not None and not made_plan:
            # A source that this start brings for the first time (Chroma's address was set) joins the plan.
            plan.sources.add(*[source for source in sources if source.name in made_sources])
    asked = _first_run(plan, now) if plan is not None and first_run else ""
    done = Seeded(TARGET if made_target else "", tuple(made_sources), PLAN if made_plan else "", asked)
    if done.changed:
        log.info("backups_seeded", target=done.target, sources=done.sources, plan=done.plan, first_run=done.first_run)
    return done


def _target() -> tuple[StorageTarget | None, bool]:
    if StorageTarget.history.filter(name=TARGET).exists():
        return StorageTarget.objects.filter(name=TARGET).first(), False
    target = StorageTarget(name=TARGET, kind=StorageTarget.Kind.LOCAL, path="backups")
    target.save()
    return target, True


def _sources(env: Env) -> tuple[list[BackupSource], list[str]]:
    """Those of the seed that exist, and the names of those made now."""
    made = []
    wanted = _wanted(env)
    for one in wanted:
        if one.kind not in kinds:
            continue
        cleaned = kinds.get(one.kind).clean(one.settings, {})
        if BackupSource.history.filter(name=one.name).exists():
            _follow(one.name, cleaned)
            continue
        _save(BackupSource(name=one.name, kind=one.kind, settings=cleaned))
        made.append(one.name)
    return list(BackupSource.objects.filter(name__in=[one.name for one in wanted])), made


def _follow(name: str, cleaned: dict[str, Any]) -> None:
    """A source that nobody has edited goes where the environment says today: the stack's Chroma has another port each
    time."""
    source = BackupSource.objects.filter(name=name).first()
    if source is None or source.settings == cleaned:
        return
    if BackupSource.history.filter(name=name).latest().history_change_reason == SEEDED:
        source.settings = cleaned
        _save(source)


def _save(source: BackupSource) -> None:
    source._change_reason = SEEDED  # type: ignore[attr-defined]  # read by simple_history
    source.save()


def _wanted(env: Env) -> list[_Wanted]:
    postgres = "postgresql" in settings.DATABASES["default"]["ENGINE"]
    own = (
        _Wanted("control-plane-database", "postgres", {"connection": "control-plane"})
        if postgres
        else _Wanted("control-plane-database", "sqlite", {"path": "control-plane"})
    )
    found = [own, _Wanted("configuration", "files"), _Wanted("user-data", "userdata"), _Wanted("logs", "logs")]
    if vectors := vectors_url(env):
        found.append(_Wanted("zantara-memory-vectors", "memory_vectors", _vectors_settings(vectors)))
    if chroma := settings.ZANTARA_CHROMA_URL:
        found.append(_Wanted("chroma", "chroma", {"url": chroma}))
    return found


def _vectors_settings(url: str) -> dict[str, Any]:
    """The sample service's store is on this machine for a drill; another service's records are compared alone."""
    sample = url.startswith("http://127.0.0.1:") and find_spec("examples") is not None
    return {"url": url, "issue_token_for_role": VECTORS_ROLE, "drill_with": "sample" if sample else "records"}


def vectors_url(env: Env) -> str | None:
    """Where the managed service gives out its vectors; the sample service of the one-machine stack has such a place."""
    given = env.url("ZANTARA_MEMORY_VECTORS_URL", schemes=("http", "https"))
    if given is not None:
        return given
    port = env.text("ZANTARA_EDGE_PORT")
    return f"http://127.0.0.1:{port}/vectors/export" if port else None


def _plan(target: StorageTarget | None, sources: list[BackupSource]) -> tuple[BackupPlan | None, bool]:
    if BackupPlan.history.filter(name=PLAN).exists() or target is None:
        return BackupPlan.objects.filter(name=PLAN).first(), False
    plan = BackupPlan(name=PLAN, target=target, description="The whole system, every night.", keep_within_days=30)
    plan.save()
    plan.sources.set(sources)
    beat.write_schedule(plan, beat.Times(beat.DEFAULT_CRON))
    beat.write_drill_schedule(plan, beat.Times(beat.DEFAULT_DRILL_CRON))
    return plan, True


def _first_run(plan: BackupPlan, now: datetime) -> str:
    from .engine.requests import request_backup

    if BackupRecord.objects.filter(plan_name=plan.name).exists() or not plan.enabled:
        return ""
    try:
        record = request_backup(plan, trigger=BackupRecord.Trigger.FIRST, requested_by="bootstrap", now=now)
    except Refused as refused:  # somebody has taken all its sources away
        log.warning("first_run_not_requested", plan=plan.name, why=str(refused))
        return ""
    return record.name if record is not None else ""
