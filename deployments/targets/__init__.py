"""Where instances run. Each kind is one module and runs the one contract suite (tests/deployments/contracts)."""

from __future__ import annotations

from controlplane.kernel.registry import Registry

from .base import Target

#: Kind -> a target of that kind. Kinds are added when the app is ready.
targets: Registry[Target] = Registry("kind of target")


def register_kinds() -> None:
    """Add every kind that this release brings; adding the same again is fine."""
    from .docker import DockerTarget
    from .process import ProcessTarget

    for target in (ProcessTarget(), DockerTarget()):
        if target.kind not in targets:
            targets.add(target.kind, target)
