"""The operator's side of deployments: services, releases, the history, and the page on which a rollout is steered."""

from __future__ import annotations

from . import deployments, navigation, releases, services

__all__ = ["deployments", "releases", "services"]

navigation.register()
