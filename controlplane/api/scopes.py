"""What a token may be good for. A scope is worth what its owner may do, and never more. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """``permissions``: what whoever grants it, and its owner, must hold. ``each_asks``: an operation of this scope asks
    for those of them that it needs; otherwise every operation asks for all."""

    name: str
    what: str
    permissions: tuple[str, ...] = ()
    each_asks: bool = False


_VERBS = ("promote", "promote_fully", "pause", "resume", "abort", "retry", "roll_back")

SCOPES: dict[str, Scope] = {
    scope.name: scope
    for scope in (
        Scope(
            "deployments:read",
            "See services, releases and deployments",
            ("deployments.view_service", "deployments.view_release", "deployments.view_deployment"),
        ),
        Scope("deployments:write", "Make releases and deploy them", ("deployments.start_deployment",)),
        Scope(
            "deployments:steer",
            "Promote, pause, resume, abort, retry and roll back",
            tuple(f"deployments.{verb}_deployment" for verb in _VERBS),
            each_asks=True,
        ),
        Scope("backups:read", "See backups and their proofs", ("backups.view_backuprecord", "backups.view_proofrun")),
        Scope(
            "backups:run",
            "Run, verify and drill backups",
            ("backups.run_backup", "backups.verify_backup", "backups.drill_backup"),
            each_asks=True,
        ),
        Scope("limits:read", "See limits", ("ratelimits.view_ratelimitprofile",)),
        Scope("limits:write", "Change limits", ("ratelimits.change_ratelimitprofile",)),
        Scope(
            "history:read",
            "See who changed what, of the rows that the owner may see",
            ("deployments.view_service", "backups.view_backupplan", "ratelimits.view_ratelimitprofile"),
            each_asks=True,
        ),
        Scope("health:read", "See the health document and the score"),
    )
}


def not_grantable(scopes: Iterable[str], permissions: Collection[str]) -> list[str]:
    """Those of the scopes that are not covered by the permissions (``app.codename``), in the table's order."""
    wanted = set(scopes)
    return [name for name, scope in SCOPES.items() if name in wanted and not set(scope.permissions) <= set(permissions)]
