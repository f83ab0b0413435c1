"""Acts on a deployment that move no state, noted beside those that do."""

from __future__ import annotations

from datetime import datetime

from controlplane.kernel import clock
from deployments.models import Deployment, DeploymentEvent


def note(deployment: Deployment, reason: str, *, actor: str = "", now: datetime | None = None) -> None:
    """Write an event whose two states are the one that the deployment is in."""
    DeploymentEvent(
        subject=deployment,
        at=now or clock.now(),
        from_state=deployment.state,
        to_state=deployment.state,
        reason=reason,
        actor=actor,
    ).save()
