"""Old checkouts and old logs of steps are removed; never one that is in use or may be gone back to."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from controlplane.kernel import clock
from deployments.machines import DEPLOYMENT
from deployments.models import Deployment, Instance, Service, ServiceState

from .fetch import releases_folder, result_path
from .fetching import PARTIAL

log = structlog.get_logger(__name__)

#: The logs of so many deployments of a service are kept.
KEPT_RUNS = 50
REMOVED = ".removed-"
#: What a fetch that was killed left is removed after so long: no fetch takes longer.
_LEFTOVER_SECONDS = 2 * 86400


@dataclass(frozen=True, slots=True)
class Checkout:
    """A release's checkout. ``made_at``: seconds since 1970."""

    version: str
    made_at: float
    in_use: bool


def prunable(checkouts: Iterable[Checkout], keep: int) -> list[str]:
    """The versions whose checkouts may go, the oldest first: all but the newest ``keep`` and those in use. Pure."""
    newest_first = sorted(checkouts, key=lambda one: (one.made_at, one.version), reverse=True)
    return [one.version for one in reversed(newest_first[max(keep, 0) :]) if not one.in_use]


def versions_in_use(service: Service) -> set[str]:
    """Releases that serve, have served last, run anywhere, or are on their way (and what they would go back to)."""
    used: set[str | None] = set()
    for state in ServiceState.objects.filter(service=service).select_related("current", "previous"):
        used |= {release.version for release in (state.current, state.previous) if release is not None}
    used |= set(
        Instance.objects.filter(service=service, stopped_at__isnull=True).values_list("release__version", flat=True)
    )
    for deployment in (
        Deployment.objects.filter(service=service)
        .exclude(state__in=DEPLOYMENT.terminal_states)
        .select_related("release", "from_release")
    ):
        used |= {release.version for release in (deployment.release, deployment.from_release) if release is not None}
    return {version for version in used if version}


def set_aside(service: Service, keep: int | None = None) -> list[str]:
    """Take checkouts beyond the service's ``keep_releases`` out of their places; the versions. Quick: one move each.

    Call it under the service's lease: nobody else may begin a deployment of an old version meanwhile.
    """
    folder = releases_folder(service.name)
    used = versions_in_use(service)
    checkouts = [
        Checkout(path.name, path.stat().st_mtime_ns / 1e9, path.name in used)
        for path in _folders(folder)
        if not path.name.startswith(".")
    ]
    gone = prunable(checkouts, service.keep_releases if keep is None else keep)
    for version in gone:
        with suppress(FileNotFoundError):
            (folder / version).rename(folder / f"{REMOVED}{secrets.token_hex(6)}")
        result_path(service.name, version).unlink(missing_ok=True)
    if gone:
        log.info("checkouts_removed", service=service.name, versions=gone)
    return gone


def clear(service: Service) -> None:
    """Delete what was set aside, what killed fetches left, and old logs of steps. May take long; needs no lease."""
    now = clock.now().timestamp()
    for path in _folders(releases_folder(service.name)):
        if path.name.startswith(REMOVED) or (
            path.name.startswith(PARTIAL) and now - path.stat().st_mtime > _LEFTOVER_SECONDS
        ):
            shutil.rmtree(path, ignore_errors=True)
    _prune_runs(service)


def prune(service: Service, keep: int | None = None) -> list[str]:
    """Both, one after the other, under the service's lease; the versions whose checkouts went."""
    gone = set_aside(service, keep)
    clear(service)
    return gone


def _prune_runs(service: Service) -> None:
    """Keep the logs of the newest deployments, and of all that are not over."""
    folder = releases_folder(service.name).parent / "runs"
    names = Deployment.objects.filter(service=service).order_by("-created_at", "-pk")
    kept = set(names.values_list("name", flat=True)[:KEPT_RUNS])
    kept |= set(names.exclude(state__in=DEPLOYMENT.terminal_states).values_list("name", flat=True))
    for path in _folders(folder):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return []
