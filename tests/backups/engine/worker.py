"""A worker in a process of its own, which a test may kill or stop: python -m tests.backups.engine.worker ACTION PK.

``--pause``: where it would be killed it stops (SIGSTOP) and goes on when it is woken; what it believed of its lease is
then old at once. ``--pause-believing``: it goes on believing it.
``--wait``: it says ``ready`` and begins when it is told to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from types import SimpleNamespace

import django


def main() -> None:
    django.setup()
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    if "--pause" in sys.argv or "--pause-believing" in sys.argv:
        _pause_instead(believes_seconds=0.2 if "--pause" in sys.argv else 3600.0)
    if "--wait" in sys.argv:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
    action, pk = arguments[0], int(arguments[1])
    sys.stdout.write(json.dumps({"result": ACTIONS[action](pk)}) + "\n")


def _pause_instead(*, believes_seconds: float) -> None:
    from backups.engine import fence
    from controlplane.kernel import killpoints

    killpoints.signal = SimpleNamespace(SIGKILL=signal.SIGSTOP)  # type: ignore[attr-defined]
    fence._BELIEVED_SECONDS = believes_seconds


def _run(pk: int) -> str:
    from backups.engine.run import run_backup

    record = run_backup(pk, owner=f"worker-{os.getpid()}")
    return record.state if record is not None else "not mine"


def _tend(_: int) -> str:
    from datetime import timedelta

    from backups.engine.recover import tend_backups
    from controlplane.kernel import clock

    return str(tend_backups(clock.now() + timedelta(seconds=61)))


def _delete(pk: int) -> str:
    from backups.engine.deleting import begin, delete_set
    from backups.models import BackupRecord
    from controlplane.kernel import clock

    record = BackupRecord.objects.get(pk=pk)
    if record.state != "deleting":
        begin(record, reason="test", actor="test", now=clock.now())
    return str(delete_set(pk, owner=f"worker-{os.getpid()}"))


def _request(pk: int) -> str:
    from backups.engine.requests import request_backup
    from backups.models import BackupPlan
    from tests.backups.factories import NOW

    record = request_backup(BackupPlan.objects.get(pk=pk), trigger="schedule", scheduled_for=NOW)
    return record.name if record is not None else ""


ACTIONS = {"request": _request, "run": _run, "tend": _tend, "delete": _delete}

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    main()
