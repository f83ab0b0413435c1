"""From what a person types to a release: its kind guessed from its look, unless he says it."""

from __future__ import annotations

import re
from pathlib import Path

from controlplane.kernel.errors import Refused
from deployments.engine.requests import create_release, find_release
from deployments.models import Release, Service

_REPOSITORY = re.compile(r"^(?:[a-z][a-z0-9+.-]*://|[\w.-]+@(?!sha256:)[\w.-]+:)|\.git$")


def kind_of(source: str, *, ref: str = "") -> str:
    """``git`` for an address or a ``.git``, ``directory`` for a path, else ``image``. A ref makes it a repository."""
    if ref or _REPOSITORY.search(source):
        return Release.Source.GIT
    if source.startswith(("/", "./", "../", "~")) or source in (".", ".."):
        return Release.Source.DIRECTORY
    return Release.Source.IMAGE


def release_for(
    service: Service,
    version: str,
    *,
    source: str = "",
    source_kind: str = "",
    ref: str = "",
    forward_only: bool = False,
    notes: str = "",
    created_by: str = "",
) -> Release:
    """The release of that version: the present one where no source is given, else one with that source.

    Refused for an unknown version, for a source that differs from the present release's, and for a ref, a kind or
    “forward-only” without a source.
    """
    if not source:
        if source_kind or ref or forward_only:
            raise Refused("That is said of a new release only, and it has no source.", remedy="Give its source too.")
        return find_release(service, version)
    kind = source_kind or kind_of(source, ref=ref)
    return create_release(
        service, version, source_kind=kind, source=source, ref=ref, forward_only=forward_only, notes=notes,
        created_by=created_by,
    )  # fmt: skip


def absolute(source: str, kind: str) -> str:
    """A directory as the worker will find it, wherever the command was typed."""
    return str(Path(source).expanduser().resolve()) if kind == Release.Source.DIRECTORY and source else source
