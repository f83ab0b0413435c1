"""The console's own pages: start, System, people, documentation."""

from __future__ import annotations

from django.urls import reverse

from controlplane.console.base import ConsolePage, add_navigation, pages
from controlplane.kernel.registry import SetupStep, cards, setup_steps

#: Who may read the admin's log may read how the installation is set up.
SYSTEM_PERMISSION = "admin.view_logentry"

#: The lines of the room of backups; one whose page is not there is left out of the sidebar.
_BACKUPS = tuple(
    (title, icon, name, f"backups.view_{model}")
    for title, icon, name, model in (
        ("History", "history", "admin:backups_backuprecord_changelist", "backuprecord"),
        ("Plans", "event_repeat", "admin:backups_backupplan_changelist", "backupplan"),
        ("Sources", "database", "admin:backups_backupsource_changelist", "backupsource"),
        ("Storage targets", "hard_drive", "admin:backups_storagetarget_changelist", "storagetarget"),
        ("Proofs", "verified", "admin:backups_proofrun_changelist", "proofrun"),
        ("Restores", "settings_backup_restore", "admin:backups_restorerecord_changelist", "restorerecord"),
        (
            "Controlled services",
            "power_settings_new",
            "admin:backups_controlledservice_changelist",
            "controlledservice",
        ),
        ("Backup health", "health_and_safety", "admin:backups_health", "backuprecord"),
    )
)

_DEPLOYMENTS = tuple(
    (title, icon, f"admin:deployments_{model}_changelist", f"deployments.view_{model}")
    for title, icon, model in (
        ("Services", "deployed_code", "service"),
        ("Deployments", "rocket_launch", "deployment"),
        ("Releases", "new_releases", "release"),
    )
)


def _people_have_own_accounts() -> bool:
    from django.contrib.auth import get_user_model

    return get_user_model().objects.count() > 1


def register_pages() -> None:
    """Add the pages, the sidebar's lines and our step of the setup; called when the admin starts."""
    from . import dashboard, docs, start, system, work

    pages.add("start_live", ConsolePage("start_live", "start/live/", start.live))
    pages.add("start_figures", ConsolePage("start_figures", "start/figures/", dashboard.start_figures))
    pages.add("system", ConsolePage("system", "system/", system.system_page, SYSTEM_PERMISSION))
    pages.add("docs_image", ConsolePage("docs_image", "docs/images/<str:name>", docs.image))
    pages.add("docs_index", ConsolePage("docs_index", "docs/", docs.page))
    pages.add("docs", ConsolePage("docs", "docs/<path:name>/", docs.page))

    add_navigation("Overview", "Start", "home", "admin:index")
    add_navigation(
        "Limits",
        "Profiles",
        "speed",
        "admin:ratelimits_ratelimitprofile_changelist",
        "ratelimits.view_ratelimitprofile|ratelimits.change_ratelimitprofile",
    )
    for title, icon, url_name, permission in _BACKUPS:
        add_navigation("Backups", title, icon, url_name, permission)
    for title, icon, url_name, permission in _DEPLOYMENTS:
        add_navigation("Deployments", title, icon, url_name, permission)
    add_navigation(
        "Automation",
        "Schedules",
        "schedule",
        "admin:django_celery_beat_periodictask_changelist",
        "django_celery_beat.view_periodictask|django_celery_beat.change_periodictask",
    )
    add_navigation("People", "Users", "person", "admin:auth_user_changelist", "auth.view_user|auth.change_user")
    add_navigation("People", "Groups", "group", "admin:auth_group_changelist", "auth.view_group|auth.change_group")
    add_navigation("Help", "System", "monitor_heart", "admin:system", SYSTEM_PERMISSION)
    add_navigation("Help", "Documentation", "menu_book", "admin:docs_index")

    cards.add(work.CARD.name, work.CARD)
    setup_steps.add(
        "people",
        SetupStep(
            name="people",
            label="Give each person an own account",
            is_done=_people_have_own_accounts,
            url=lambda: reverse("admin:auth_user_add"),
            help="The history then says who changed what. Groups Viewer, Operator and Administrator are ready.",
        ),
    )
