"""What happens to a release before traffic moves: it is fetched, checked and built."""

from __future__ import annotations

from controlplane.kernel.registry import Registry

from .base import StepKind

#: Name -> how steps of this kind are run and read. Kinds are added when the app is ready.
kinds: Registry[StepKind] = Registry("kind of step")


def register_kinds() -> None:
    """Add every kind that this release brings; adding the same again is fine."""
    from .readers import command, disk_space, mypy, outdated, pip_audit, pytest

    for kind in (
        command.Command(), mypy.Mypy(), pytest.Pytest(), pip_audit.PipAudit(), outdated.Outdated(),
        disk_space.DiskSpace(),
    ):  # fmt: skip
        if kind.name not in kinds:
            kinds.add(kind.name, kind)
