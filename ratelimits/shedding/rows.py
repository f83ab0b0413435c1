"""From the row to the policy in force: publish and reconcile. The control plane's side alone."""

from __future__ import annotations

from typing import Any

import structlog
from django.db import transaction

from ratelimits import policies
from ratelimits.limiter.publication import Publication, version_of

from . import publication
from .policy import BUILT_IN, SheddingPolicy

log = structlog.get_logger(__name__)


def saved_policy() -> SheddingPolicy:
    """What the database asks for; the built-in policy where nobody has ever saved one."""
    from ratelimits.models import LoadSheddingPolicy

    row = LoadSheddingPolicy.objects.filter(pk=1).first()
    return BUILT_IN if row is None else row.as_policy()


def publish_now() -> Publication:
    """Put the row in force; "superseded" and "unreachable" are left to ``reconcile``."""
    policy = saved_policy()
    if not policy.version:
        return Publication("in_force", 0)  # as built in: there is nothing to tell
    result = publication.publish(policies.client(), policy)
    log.info("shedding_policy_published", status=result.status, version=result.version_in_redis)
    return result


def publish_on_commit() -> None:
    """Publish when the running transaction is committed, once."""
    if not any(what is _publish_quietly for _, what, _ in transaction.get_connection().run_on_commit):
        transaction.on_commit(_publish_quietly)


def _publish_quietly() -> None:
    # the row is saved: whatever goes wrong now is "not yet in force", and the reconciler goes on with it
    try:
        publish_now()
    except Exception as error:  # noqa: BLE001
        log.error("shedding_policy_not_published", error=type(error).__name__)


def version_in_force() -> int | None:
    """The version that Redis holds (0: none), None where it does not answer."""
    tag = publication.tag_in_force(policies.client())
    return None if tag is None else version_of(tag)


def reconcile() -> Publication:
    """Make what is in force equal to the row; called every 10 s and after each start.

    The database is the truth: where Redis holds a higher version, or another policy under the same one (the
    database was restored from a backup, say), the row's version is raised above it and published again.
    """
    from ratelimits.models import LoadSheddingPolicy

    policy = saved_policy()
    tag = publication.tag_in_force(policies.client())
    if tag is None:
        return Publication("unreachable", None)
    if tag == publication.tag_of(policy):
        return Publication("in_force", policy.version)
    held = version_of(tag)
    if held < policy.version:
        return publish_now()
    row: Any = LoadSheddingPolicy.the_row()  # simple-history reads what it is told on the row
    if row.version == policy.version:  # else somebody has saved it meanwhile, and published that
        row._change_reason = f"published again: version {held} was found in force"
        row.save(above=held)  # publishes
        log.warning("shedding_policy_version_raised", above=held)
    return publish_now()
