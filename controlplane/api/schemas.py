"""What the API takes and gives. A field that is not here is neither taken nor shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from ninja import Schema
from pydantic import ConfigDict, Field

T = TypeVar("T")


class Given(Schema):
    """A body. What it does not know it refuses, so that a misspelt field is no silent nothing."""

    model_config = ConfigDict(extra="forbid")


class Page(Schema, Generic[T]):
    """A part of a list, newest first where nothing else is said. ``next`` is the address of the part after it."""

    items: list[T]
    next: str | None = Field(None, description="Address of the next page; null on the last.")


class FieldProblem(Schema):
    where: str
    message: str


class Problem(Schema):
    """RFC 9457. ``type`` never changes its meaning; ``remedy`` says what to do."""

    type: str
    title: str
    status: int
    detail: str | None = None
    remedy: str | None = None
    errors: list[FieldProblem] | None = None


# --- deployments --------------------------------------------------------------------------------------------------


class Release(Schema):
    service: str
    version: str
    source_kind: str
    source: str
    ref: str
    digest: str
    forward_only: bool
    notes: str
    created_at: datetime
    created_by: str


class NewRelease(Given):
    version: str = Field(max_length=64)
    source: str = Field(min_length=1, max_length=500, description="A repository, a directory, or an image.")
    source_kind: Literal["git", "directory", "image"] | None = Field(None, description="Guessed where it is left out.")
    ref: str = Field("", max_length=200, description="Branch, tag or commit of a repository.")
    forward_only: bool = Field(False, description="There is no way back from it.")
    notes: str = Field("", max_length=10_000)


class Service(Schema):
    name: str
    description: str
    enabled: bool
    environment: str
    region: str
    target_kind: str
    instances: int
    edge_port: int | None
    route_prefix: str
    health_path: str
    gradual_rollout: bool
    rollback_enabled: bool
    busy_policy: str
    backup_plan: str | None
    version: str | None = Field(description="The release that serves.")
    previous_version: str | None
    split: dict[str, float] = Field(description="Version -> intended share of the traffic in percent.")


class PlannedStage(Schema):
    requested_percent: float
    effective_percent: float
    bake_seconds: int
    new_instances: int
    old_instances: int


class PlannedStep(Schema):
    phase: str
    name: str
    kind: str
    timeout_seconds: int
    blocks: bool
    unknown: str


class PlannedBackup(Schema):
    plan: str
    level: int


class Plan(Schema):
    service: str
    version: str | None
    from_version: str | None
    obstacles: list[str] = Field(description="Why it would wait or be refused.")
    pipeline: list[PlannedStep]
    backup: PlannedBackup | None
    stages: list[PlannedStage]
    if_bad: str
    if_inconclusive: str


class DeploymentLine(Schema):
    name: str
    service: str
    version: str
    from_version: str | None
    state: str
    is_over: bool
    trigger: str
    requested_by: str
    reason: str
    stage: int
    requested_percent: float
    effective_percent: float | None = Field(description="What the edge was last seen to do; null: not known.")
    pause_reason: str
    error: str
    created_at: datetime
    started_at: datetime | None
    promoted_at: datetime | None
    finished_at: datetime | None


class Stage(Schema):
    percent: float
    bake_seconds: int
    standing: Literal["done", "now", "ahead"]


class Step(Schema):
    phase: str
    name: str
    attempt: int
    outcome: str
    summary: str
    findings: dict[str, Any]
    started_at: datetime | None
    finished_at: datetime | None


class Instance(Schema):
    name: str
    version: str
    condition: str
    restarts: int
    failure: str


class Deployment(DeploymentLine):
    stages: list[Stage]
    observed_seconds: float
    extensions: int
    skips_pipeline: bool
    health: dict[str, Any]
    verdict: dict[str, Any]
    backup: str | None
    steps: list[Step]
    instances: list[Instance]
    possible_commands: list[str]


class NewDeployment(Given):
    service: str
    version: str
    source: str = Field("", max_length=500, description="Of a version that is new; needs the right to add releases.")
    source_kind: Literal["git", "directory", "image"] | None = None
    ref: str = Field("", max_length=200)
    forward_only: bool = False
    notes: str = Field("", max_length=10_000)
    reason: str = Field("", max_length=1000)
    at_once: bool = Field(False, description="Without stages; needs the right to promote fully.")
    skip_pipeline: bool = Field(False, description="Without checks, build and backup; needs the same right.")


CommandKind = Literal["promote", "promote_fully", "pause", "resume", "abort", "retry", "roll_back"]


class NewCommand(Given):
    kind: CommandKind
    reason: str = Field("", max_length=1000)


class Command(Schema):
    deployment: str
    kind: str
    actor: str
    reason: str
    created_at: datetime
    outcome: str
    follower: str | None = Field(description="The new deployment, where one that is over is retried or rolled back.")


class Event(Schema):
    at: datetime
    from_state: str
    to_state: str
    reason: str
    actor: str


# --- backups ------------------------------------------------------------------------------------------------------


class Artifact(Schema):
    name: str
    kind: str
    plain_bytes: int
    stored_bytes: int
    plain_sha256: str
    summary: dict[str, Any]
    proof_level: int | None
    damage: str
    restore_seconds: float | None
    warnings: list[Any]


class Backup(Schema):
    name: str
    plan: str
    target: str
    state: str
    trigger: str
    requested_by: str
    created_at: datetime
    finished_at: datetime | None
    committed_at: datetime | None
    plain_bytes: int
    stored_bytes: int
    proof_level: int | None
    proven_at: datetime | None
    pinned: bool
    keep_reasons: list[Any]
    warnings: list[Any]
    error: str
    artifacts: list[Artifact]


class NewBackup(Given):
    plan: str | None = Field(None, description="Its name; not needed where there is one plan.")
    sources: list[str] = Field(default_factory=list, description="Only these of the plan; none: all.")
    reason: str = Field("", max_length=1000)


class NewProof(Given):
    level: int = Field(2, ge=0, le=3, description="0 present, 1 hashes, 2 readable, 3 restored into scratch (a drill).")
    parts: list[str] = Field(default_factory=list)


class Proof(Schema):
    id: int
    record: str
    level: int
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    read_bytes: int
    findings: list[Any]
    error: str


# --- limits, history, health --------------------------------------------------------------------------------------


class Limit(Schema):
    id: int
    role: str
    route_prefix: str
    subject: str
    unlimited: bool
    requests: int
    window_seconds: int
    burst_requests: int | None
    burst_window_seconds: int | None
    message: str
    key: str
    fail_mode: str
    enforced: bool
    active: bool
    note: str
    version: int
    updated_at: datetime
    in_force: bool | None = Field(description="Whether every process obeys this version; null: Redis is away.")


class LimitChange(Given):
    requests: int | None = None
    burst_requests: int | None = None
    reason: str = Field("", max_length=100, description="For the history.")
    version: int | None = Field(None, description="Refused where the row has another version by now.")


class Change(Schema):
    field: str
    old: Any
    new: Any


class HistoryEntry(Schema):
    at: datetime
    model: str
    object_id: str
    object: str
    what: Literal["created", "changed", "deleted"]
    by: str | None
    reason: str | None
    changes: list[Change]


class Score(Schema):
    value: int
    share: int
    suffices: bool
    failed_gates: list[str]
    reasons: list[str]


class Health(Schema):
    document: dict[str, Any]
    score: Score
