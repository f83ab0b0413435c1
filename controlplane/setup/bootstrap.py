"""From an empty data directory to an installation that one can log in to; and again, changing nothing.

Every step looks first and creates what is missing. What an operator has edited is left as he left it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import OperationalError, connection, transaction

from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError, Unavailable

from .groups import ensure_groups

logger = structlog.get_logger(__name__)

ADMIN = "admin"
#: Without characters that look alike: it is read off a terminal. 20 of 55 are 115 bits.
ALPHABET = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
PASSWORD_LENGTH = 20
#: Any number: the name of our advisory lock within one PostgreSQL database ("zantara" on a telephone).
ADVISORY_LOCK = 9_268_272


@dataclass(frozen=True)
class Step:
    """What one step did. A warning is something to look at; the installation works nevertheless."""

    name: str
    status: Literal["changed", "unchanged", "warning"]
    summary: str


@dataclass(frozen=True)
class BootstrapResult:
    """What was done. ``admin_password`` is there only where it was made up now, and nowhere else ever again."""

    steps: tuple[Step, ...]
    admin_password: str | None = None

    def as_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"steps": [asdict(step) for step in self.steps]}
        if self.admin_password is not None:
            data["admin_password"] = self.admin_password
        return data


def bootstrap(env: Env | None = None, *, first_backup: bool = False) -> BootstrapResult:
    """Bring the installation up to this release. Idempotent; a second one at the same time waits for the first.

    ``first_backup``: workers are about to start, so the plan that never ran asks them for its first run.

    Raises ConfigurationError (a directory that cannot be written, a bad variable) or Unavailable (the
    database server does not answer).
    """
    env = env or Env()
    with _alone():
        try:
            settled = settle_offline_restore()
            keep_database_private()
            steps = [*settled, migrate()]
            with _across_machines():
                steps += [create_profiles(), create_groups(), create_schedules(), publish()]
                steps.append(prepare_backups(env, first_backup=first_backup))
                steps.append(prepare_deployments(env))
                # The last step: whatever fails before it, no password was made that nobody gets to see.
                admin, password = create_admin(env)
                steps.append(admin)
        except OperationalError as error:
            raise Unavailable(
                f"The database does not answer ({type(error).__name__}).",
                remedy="Start the database server, or correct ZANTARA_DATABASE_URL.",
            ) from error
    logger.info("bootstrap_finished", changed=[step.name for step in steps if step.status == "changed"])
    return BootstrapResult(tuple(steps), password)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock file of the data directory; the kernel lets go of it however this process ends."""
    path = Path(settings.ZANTARA_DATA_DIR) / "run" / "bootstrap.lock"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}).",
            remedy="Make the data directory writable for this user, or set ZANTARA_DATA_DIR.",
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _across_machines() -> Iterator[None]:
    """On PostgreSQL, two machines with one database take turns too; SQLite is never shared by machines."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])


def settle_offline_restore() -> list[Step]:
    """Undo or finish an offline restore of this database that was killed: nothing may run on half of one."""
    from backups.restore.offline import has_unfinished, settle

    if not has_unfinished():
        return []
    done = settle()
    summary = f"an interrupted restore of {done.record_name} was finished" if done else "one was undone"
    return [Step("offline restore", "changed", summary)]


def pending_migrations() -> list[str]:
    """Names of migrations that this release brings and the database has not had."""
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def keep_database_private() -> None:
    """Password hashes and session keys are in it. SQLite gives the files beside it the mode of the database."""
    if connection.vendor != "sqlite" or connection.is_in_memory_db():  # type: ignore[attr-defined]  # SQLite's own
        return
    path = Path(str(connection.settings_dict["NAME"]))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    for name in (path, *(path.with_name(path.name + ending) for ending in ("-wal", "-shm"))):
        with suppress(FileNotFoundError):
            name.chmod(0o600)


def migrate() -> Step:
    with _across_machines():
        pending = pending_migrations()
        if pending:
            call_command("migrate", interactive=False, verbosity=0)
    return _step("migrations", len(pending), "migrations applied", "the database is up to date")


def create_profiles() -> Step:
    """The seed's limits, each only where its role never had a plain profile (no prefix, no subject).

    What an operator made inactive or deleted stays so: its history says that it was there.
    """
    from ratelimits.decision import SEED, SEED_WINDOW_SECONDS
    from ratelimits.models import RateLimitProfile

    created = 0
    with transaction.atomic():
        plain = RateLimitProfile.history.filter(route_prefix="", subject="")
        known = set(plain.values_list("role", flat=True))
        for row in SEED:
            if row["role"] not in known:
                RateLimitProfile(window_seconds=SEED_WINDOW_SECONDS, **row).save()
                created += 1
    if not RateLimitProfile.objects.filter(active=True).exists():
        return Step(
            "profiles", "warning", "no profile is active, so nobody is limited; add or activate one in the admin"
        )
    return _step("profiles", created, "rate-limit profiles created", "the rate-limit profiles are there")


def create_groups() -> Step:
    from controlplane.schedules.running import ensure_permissions

    with transaction.atomic():
        ensure_permissions()
        added = sum(ensure_groups().values())
    return _step("groups", added, "permissions given to Viewer, Operator, Administrator", "groups are complete")


def create_schedules() -> Step:
    from controlplane.schedules.reconcile import reconcile_schedules

    result = reconcile_schedules()
    changed = len(result.created) + len(result.updated) + len(result.disabled)
    return _step("schedules", changed, "schedules written", "schedules are up to date")


def create_admin(env: Env) -> tuple[Step, str | None]:
    """The first superuser, if there is none. A password that was given is not shown again."""
    users = get_user_model()._default_manager
    if users.filter(username=ADMIN).exists() or users.filter(is_superuser=True).exists():
        return Step("superuser", "unchanged", "there is a superuser"), None
    given = env.secret("ZANTARA_ADMIN_PASSWORD")
    password = given or "".join(secrets.choice(ALPHABET) for _ in range(PASSWORD_LENGTH))
    user = get_user_model()(username=ADMIN, is_staff=True, is_superuser=True, is_active=True)
    user.set_password(password)
    user.save()
    return Step("superuser", "changed", f"superuser {ADMIN} created"), None if given else password


def publish() -> Step:
    """Send the limits to Redis. Without Redis the installation is complete: they are sent when it is there."""
    from ratelimits.policies import publish_now

    publication = publish_now()
    if publication.status == "in_force":
        return Step("limits", "unchanged", "the limits are in force")
    if publication.status == "superseded":
        return Step("limits", "unchanged", "Redis holds newer limits than the database; the next reconcile settles it")
    return Step("limits", "warning", "Redis does not answer: the limits are saved, not yet in force")


def prepare_backups(env: Env, *, first_backup: bool = False) -> Step:
    """The keys that sets are encrypted and signed with, and the first plan, where there never was one."""
    from backups.keys import ensure_keys
    from backups.seed import seed

    made = [name.replace("_", " ") for name in ensure_keys()]
    seeded = seed(env=env, first_run=first_backup)
    made += [f"target {seeded.target}"] if seeded.target else []
    made += [f"source {name}" for name in seeded.sources]
    made += [f"plan {seeded.plan}"] if seeded.plan else []
    made += [f"first run {seeded.first_run}"] if seeded.first_run else []
    if not made:
        return Step("backups", "unchanged", "keys and plan are there")
    return Step("backups", "changed", f"made: {', '.join(made)}")


def prepare_deployments(env: Env) -> Step:
    """The service that the one-machine stack begins with, and its first deployment, where there never was one."""
    from deployments.seed import seed

    seeded = seed(env=env)
    if not seeded.service:
        return Step("deployments", "unchanged", "services are as they were")
    return Step("deployments", "changed", f"made: service {seeded.service}, {seeded.deployment}")


def _step(name: str, count: int, done: str, nothing: str) -> Step:
    return Step(name, "changed", f"{count} {done}") if count else Step(name, "unchanged", nothing)
