"""Celery refuses to send a task whose soft limit is above its hard one: beat would then never start it."""

from __future__ import annotations

from celery import current_app


def test_every_task_can_be_sent() -> None:
    current_app.loader.import_default_modules()
    limits = {
        name: (
            task.soft_time_limit or current_app.conf.task_soft_time_limit,
            task.time_limit or current_app.conf.task_time_limit,
        )
        for name, task in current_app.tasks.items()
        if not name.startswith("celery.")
    }
    assert {"backups.run_plan", "backups.drill_plan", "backups.run_backup", "backups.tend"} <= set(limits)
    assert {name: both for name, both in limits.items() if both[0] > both[1]} == {}
