"""An installation of its own: each act is a process in its data directory, as an operator's would be.

``python -m tests.backups.restore.box ACT [JSON]`` carries one out and prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any


def bootstrap() -> dict[str, Any]:
    """Tables, keys, a target, a plan of the own database alone."""
    from django.core.management import call_command

    from backups import keys
    from backups.models import BackupPlan, BackupSource, StorageTarget
    from backups.restore.own import own_sqlite_file

    call_command("migrate", interactive=False, verbosity=0, run_syncdb=True)  # the suite's own app has no migrations
    keys.ensure_keys()
    source = (
        BackupSource(name="control-plane-database", kind="sqlite", settings={"path": "control-plane"})
        if own_sqlite_file() is not None
        else BackupSource(name="control-plane-database", kind="postgres", settings={"connection": "control-plane"})
    )
    source.save()
    files = BackupSource(name="tree", kind="files", settings={"base": os.environ["BOX_TREE"], "patterns": "**"})
    files.save()
    target = StorageTarget(name="store", kind="local", path="sets")
    target.save()
    plan = BackupPlan(name="all", target=target)
    plan.save()
    plan.sources.set([source, files])
    return {}


def live() -> dict[str, dict[str, Any]]:
    """A first user, a busy moment with a backup, a later user, and a backup that knows of him."""
    bootstrap()
    write("before")
    busy = in_flight()
    first = back_up()
    write("later")
    return {"first": {**busy, **first}, "second": back_up()}


def write(user: str) -> dict[str, Any]:
    """Something that one can see come and go."""
    from django.contrib.auth import get_user_model

    get_user_model()(username=user).save()
    return {}


def in_flight() -> dict[str, Any]:
    """What a busy control plane has when its nightly backup begins."""
    from backups.engine.requests import request_backup
    from backups.models import BackupPlan, BackupRecord, ProofRun, RestoreRecord
    from controlplane.kernel import clock, leases

    plan, now = BackupPlan.objects.get(), clock.now()
    queued = request_backup(plan, trigger="safety", reason="waits")
    running = BackupRecord.objects.create(
        name="zantara-backup-running", plan=plan, plan_name=plan.name, target=plan.target, state="running",
        trigger="manual", due_at=now, created_at=now, started_at=now, attempt=1, prefix="sets/all/2020/01/nothing",
    )  # fmt: skip
    assert leases.acquire(BackupRecord, running.pk, owner="a worker", ttl_seconds=3600, now=now) is not None
    for state in ("queued", "running"):
        ProofRun.objects.create(record=running, level=1, state=state, trigger="manual", created_at=now, due_at=now)
    for number, state in enumerate(("queued", "preflight", "swapping", "rolling_back")):
        RestoreRecord.objects.create(
            name=f"r-{number}", record=running, state=state, requested_by="o", reason="r", created_at=now, due_at=now
        )
    assert queued is not None
    return {"queued": queued.name, "running": running.name}


def back_up() -> dict[str, Any]:
    from backups.models import BackupPlan
    from tests.backups import factories

    record = factories.run_now(BackupPlan.objects.get(), trigger="deployment")
    assert record.state == "committed", record.error
    return {"name": record.name, "prefix": record.prefix}


def restore(name: str, **more: Any) -> dict[str, Any]:
    """By a target that was never saved, as where the database is gone."""
    from backups import keys
    from backups.models import StorageTarget
    from backups.restore.offline import restore_offline
    from controlplane.kernel.errors import ZantaraError

    target = StorageTarget(name="given", kind="local", path=os.environ["BOX_STORE"])
    identity = keys.identity_from_file(Path(os.environ["BOX_IDENTITY"]))
    heard: list[str] = []
    try:
        done = restore_offline(
            target, name, identity=identity, requested_by="ops", reason="a test", say=heard.append, **more
        )
    except ZantaraError as error:
        return {"refused": type(error).__name__, "why": str(error), "heard": heard}
    return {**asdict(done), "heard": heard}


def look() -> dict[str, Any]:
    """Everything that a test asks of the database."""
    from django.apps import apps
    from django.contrib.auth import get_user_model

    from backups.models import BackupRecord, ProofRun, RestoreRecord
    from backups.restore import journal as journals
    from controlplane.kernel.leases import Leased

    leased = [m for m in apps.get_models() if issubclass(m, Leased)]
    return {
        "users": sorted(get_user_model().objects.values_list("username", flat=True)),
        "backups": {r.name: [r.state, r.error, r.prefix] for r in BackupRecord.objects.all()},
        "proofs": sorted(ProofRun.objects.values_list("state", flat=True)),
        "restores": dict(RestoreRecord.objects.values_list("name", "state")),
        "reasons": [e.reason for r in BackupRecord.objects.all() for e in r.events.all()],
        "fences": [[row.pk, row.lease_token] for m in leased for row in m._base_manager.all()],
        "leased": [str(row) for m in leased for row in m._base_manager.exclude(lease_expires_at=None)],
        "unfinished": [journal.name for journal in journals.unfinished()],
    }


def stale_worker(name: str) -> dict[str, Any]:
    """What a worker of the lost time would do: write by the lease that it believes to have."""
    from backups.models import BackupRecord
    from controlplane.kernel import clock
    from controlplane.kernel.errors import LeaseLost
    from controlplane.kernel.leases import Lease

    row, now = BackupRecord.objects.get(name=name), clock.now()
    refused = 0
    for token in range(1, 200):
        lease = Lease(BackupRecord, row.pk, "a worker", token, 60, now + timedelta(hours=1))
        try:
            lease.guarded_update(error="written by the dead")
        except LeaseLost:
            refused += 1
    return {"refused": refused}


def from_the_future() -> dict[str, Any]:
    """A migration that this release does not have."""
    from django.db import connection
    from django.db.migrations.recorder import MigrationRecorder

    MigrationRecorder(connection).record_applied("backups", "9999_later")
    return {}


def start() -> dict[str, Any]:
    """What the stack does first."""
    from backups.restore.offline import has_unfinished
    from controlplane.setup.bootstrap import bootstrap as bootstrap_all

    before = has_unfinished()
    steps = {step.name: step.summary for step in bootstrap_all().steps}
    return {"before": before, "after": has_unfinished(), "said": steps.get("offline restore")}


ACTS: dict[str, Callable[..., dict[str, Any]]] = {
    act.__name__: act
    for act in (bootstrap, live, write, in_flight, back_up, restore, look, stale_worker, from_the_future, start)
}


def main() -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    django.setup()
    given = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    sys.stdout.write(json.dumps(ACTS[sys.argv[1]](**given), default=str))


if __name__ == "__main__":
    main()
