"""What people may do in the admin: three groups, built from a table. They are never rate-limit roles."""

from __future__ import annotations

from collections.abc import Iterable

from django.contrib.auth.models import Group, Permission

VIEWER, OPERATOR, ADMINISTRATOR = "Viewer", "Operator", "Administrator"

#: A session's key is a credential: who can read it can be its user.
HIDDEN_APPS = frozenset({"sessions"})

#: What an Operator may change, as ``app_label.codename``.
OPERATOR_PERMISSIONS = frozenset(
    {
        "ratelimits.add_ratelimitprofile",
        "ratelimits.change_ratelimitprofile",
        "ratelimits.change_loadsheddingpolicy",
        # a token is worth no more than its owner may do, and its maker
        "api.add_apitoken",
        "notifications.add_channel",
        "notifications.change_channel",
        "django_celery_beat.add_periodictask",
        "django_celery_beat.change_periodictask",
        "django_celery_beat.add_crontabschedule",
        "django_celery_beat.change_crontabschedule",
        "django_celery_beat.add_intervalschedule",
        "django_celery_beat.change_intervalschedule",
        "django_celery_beat.add_clockedschedule",
        "django_celery_beat.change_clockedschedule",
        "django_celery_beat.add_solarschedule",
        "django_celery_beat.change_solarschedule",
    }
)

#: Verbs of our own, whichever model carries them. One that no installed app brings is passed over.
OPERATOR_VERBS = frozenset(
    {
        "reset_caller",
        "explain_decision",
        "run_periodictask",
        "revoke_apitoken",
        "test_channel",
        "retry_delivery",
        # Of backups: whatever makes and proves. What replaces or destroys data, or runs commands on the host, is an
        # administrator's: restore, delete, unfreeze, the recovery kit, plans, sources, targets and services.
        "run_backup",
        "cancel_backup",
        "verify_backup",
        "drill_backup",
        "pin_backup",
        "test_backupsource",
        "test_storagetarget",
        # Of deployments: whatever starts, steers and stops one. Services, their stages and the commands of their
        # steps, which run on the host, are an administrator's; so are releases made by a form of their own.
        "start_deployment",
        "promote_deployment",
        "promote_fully_deployment",
        "pause_deployment",
        "resume_deployment",
        "abort_deployment",
        "retry_deployment",
        "roll_back_deployment",
        "stop_line",
    }
)


def permissions_of(group: str, permissions: Iterable[Permission]) -> list[Permission]:
    """Those of the permissions (with their content types loaded) that belong to this group."""
    return [permission for permission in permissions if _belongs(group, permission)]


def _belongs(group: str, permission: Permission) -> bool:
    if group == ADMINISTRATOR:
        return True
    app = permission.content_type.app_label
    if permission.codename.startswith("view_"):
        return app not in HIDDEN_APPS
    if group == OPERATOR:
        return f"{app}.{permission.codename}" in OPERATOR_PERMISSIONS or permission.codename in OPERATOR_VERBS
    return False


def ensure_groups() -> dict[str, int]:
    """Make the groups and give them what they lack; how many permissions each got.

    Nothing is taken away: what an administrator added to a group stays. A group with fewer rights than
    these is one of its own.
    """
    everything = list(Permission.objects.select_related("content_type"))
    added = {}
    for name in (VIEWER, OPERATOR, ADMINISTRATOR):
        group, _ = Group.objects.get_or_create(name=name)
        present = set(group.permissions.values_list("pk", flat=True))
        missing = [p for p in permissions_of(name, everything) if p.pk not in present]
        group.permissions.add(*missing)
        added[name] = len(missing)
    return added
