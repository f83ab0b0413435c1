"""From the profiles' rows to the set in force: build, publish, reconcile. The control plane's side alone."""

from __future__ import annotations

import redis
import structlog
from django.db import transaction

from .config import limits_config, on_settings_change
from .decision import PolicySet
from .limiter import publication
from .limiter.publication import Publication

log = structlog.get_logger(__name__)

#: Seconds for publishing and reading: not on a caller's path, so more patient than a decision.
TIMEOUT_SECONDS = 0.5

_clients: dict[str, redis.Redis] = {}
on_settings_change(_clients.clear)


def client() -> redis.Redis:
    """The control plane's own connection pool to the limiter's Redis."""
    url = limits_config().redis_url
    if url not in _clients:
        _clients[url] = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, protocol=2
        )
    return _clients[url]


def build_policy_set() -> PolicySet:
    """The set that the database asks for: all active profiles under the current version.

    The version is read first: rows may then be newer than the number, never older, and the change that
    made them so publishes a higher number itself.
    """
    from .models import PolicyVersion, RateLimitProfile

    version = PolicyVersion.current()
    profiles = RateLimitProfile.objects.filter(active=True).order_by("pk")
    return PolicySet(version=version, policies=tuple(profile.as_policy() for profile in profiles))


def publish_now() -> Publication:
    """Put the database's set in force; "superseded" and "unreachable" are left to ``reconcile``."""
    result = publication.publish(client(), build_policy_set())
    log.info("policies_published", status=result.status, version=result.version_in_redis)
    return result


def publish_on_commit() -> None:
    """Publish when the running transaction is committed (at once where there is none).

    Once, however many rows it saves. A rolled back savepoint takes its own requests off the list, so that one
    which is still there hangs on nothing that this one would not hang on too.
    """
    waiting = transaction.get_connection().run_on_commit
    if not any(what is _publish_quietly for _, what, _ in waiting):
        transaction.on_commit(_publish_quietly)


def _publish_quietly() -> None:
    # the row is saved: whatever goes wrong now is "not yet in force", and the reconciler goes on with it
    try:
        publish_now()
    except Exception as error:  # noqa: BLE001
        log.error("policies_not_published", error=type(error).__name__)


def version_in_force() -> int | None:
    """The version that Redis holds (0: none), None where it does not answer."""
    tag = publication.tag_in_force(client())
    return None if tag is None else publication.version_of(tag)


def reconcile() -> Publication:
    """Make what is in force equal to the database; called every 10 s and after each start.

    The database is the truth. Where Redis holds a higher version, or another set under the same one (the
    database was restored from a backup, say), the version is raised above it and the set published again.
    """
    from .models import PolicyVersion

    policies = publication.with_digest(build_policy_set())
    tag = publication.tag_in_force(client())
    if tag is None:
        return Publication("unreachable", None)
    if tag == publication.tag_of(policies):
        return Publication("in_force", policies.version)
    held = publication.version_of(tag)
    if held >= policies.version:
        with transaction.atomic():
            # unless a save has raised it since the set above was built: then Redis may rightly hold more
            raised = PolicyVersion.current() == policies.version
            if raised:
                PolicyVersion.raise_by_one(above=held)
        if raised:
            log.warning("policy_version_raised", above=held)
    return publish_now()
