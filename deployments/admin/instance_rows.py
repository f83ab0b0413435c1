"""Instances as rows of a table: condition, address, restarts, health; and the end of what one said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import badge, since
from controlplane.kernel.errors import ZantaraError
from deployments.models import Instance
from deployments.targets import targets
from deployments.targets.base import Seen

from .words import CONDITIONS, short, small, state_badge


def instance_rows(instances: Iterable[Instance], now: datetime) -> list[dict[str, Any]]:
    """For a template; each instance with its release loaded."""
    return [
        {
            "name": one.name,
            "version": one.release.version,
            "badge": state_badge(one.condition, CONDITIONS),
            "why": _why(one),
            "address": f"{one.host}:{one.port}" if one.port else "–",
            "restarts": one.restarts,
            "health": health_badge(one.health),
            "since": since(one.stopped_at or one.started_at or one.created_at, now=now),
            "log_url": reverse("admin:deployments_service_instance_log", args=(one.service_id, one.pk)),
        }
        for one in instances
    ]


def _why(one: Instance) -> str:
    if one.failure:
        return one.failure
    if one.oom_killed:
        return "killed: out of memory"
    return f"ended with exit code {one.exit_code}" if one.exit_code not in (None, 0) else ""


def health_badge(health: object) -> SafeString:
    """What its last health document said."""
    told = health if isinstance(health, Mapping) else {}
    document = told.get("document", told)
    healthy = document.get("healthy") if isinstance(document, Mapping) else None
    if told.get("problem"):
        return format_html("{}{}", badge("No good answer", "bad"), small(short(str(told["problem"]))))
    if healthy is None:
        return badge("Not asked", "muted", "help")
    return badge("Healthy", "ok") if healthy else badge("Not healthy", "bad")


def log_of(instance: Instance) -> tuple[str, str]:
    """The end of what the instance said, secrets masked by its target; and why there is nothing, if so."""
    service = instance.service
    seen = Seen(
        service=service.name,
        release=instance.release.version,
        slot=instance.slot,
        name=instance.name,
        running=instance.stopped_at is None,
        host=instance.host,
        port=instance.port,
        handle=instance.handle,
        started_at=instance.started_at,
    )
    try:
        text = targets.get(service.target_kind).log_tail(seen, service.target_settings)
    except ZantaraError as problem:
        return "", str(problem)
    return text, "" if text else "It has said nothing yet, or its log is gone."
