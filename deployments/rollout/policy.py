"""How careful one deployment is: the service's settings, frozen when it is asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """Seconds and counts of one deployment; the names are those of the service's fields."""

    instances: int = 1
    max_surge: int = 0
    gradual_rollout: bool = True
    rollback_enabled: bool = True
    health_check_timeout_seconds: int = 300
    min_health_score: int = 80
    min_ready_seconds: int = 2
    readiness_deadline_seconds: int = 120
    drain_timeout_seconds: int = 30
    inconclusive_policy: str = "hold"
    inconclusive_extensions: int = 3
    slow_request_ms: int = 1000
    error_budget: int = 100
    backup_level: int = 0
    has_backup_plan: bool = False
    has_edge: bool = True
    has_document: bool = True
    health_map: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "health_map": dict(self.health_map)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RolloutPolicy:
        """The policy again; fields of a later release of this program are passed over."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})
