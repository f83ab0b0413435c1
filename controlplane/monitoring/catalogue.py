"""The declarations: what each metric is called, counts, and means. docs/metrics.md is made from this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Bounds of the request duration, in seconds: the seed's.
DURATION_BUCKETS = (0.1, 0.3, 0.5, 0.7, 1.0, 3.0, 5.0, 7.0, 10.0)
TASK_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
DETECT_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 45.0, 90.0, 180.0, 600.0)
DELAY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Spec:
    """``at`` says when its value is known: counted by each ``process``, or read at each ``scrape``."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    at: Literal["process", "scrape"] = "process"
    #: Series per process before everything else is counted as <overflow>.
    most_series: int = 1000


METRICS: tuple[Spec, ...] = (
    Spec(
        "zantara_requests_total",
        "counter",
        "Answered requests. user_role is anonymous without a caller; handler is unknown where the body names none.",
        ("method", "route", "status", "user_role", "handler"),
        most_series=2000,
    ),
    Spec(
        "zantara_request_duration_seconds",
        "histogram",
        "Time from the first middleware to the answer, of a stream to its end.",
        ("method", "route", "handler"),
        DURATION_BUCKETS,
        most_series=500,
    ),
    Spec(
        "zantara_role_duration_seconds",
        "histogram",
        "The same by the caller's role: who waits.",
        ("user_role",),
        DURATION_BUCKETS,
        most_series=50,
    ),
    Spec(
        "zantara_requests_in_flight",
        "gauge",
        "Requests that the living processes of this service work on, the scrape's own included.",
        at="scrape",
    ),
    Spec(
        "zantara_active_connections",
        "gauge",
        "Established connections on the service's own port, sampled four times a second.",
        at="scrape",
    ),
    Spec(
        "zantara_vector_operations_total",
        "counter",
        "Operations on vectors: add, delete, search, page, import, upsert or query; status is success or failure.",
        ("operation", "provider", "status"),
    ),
    Spec(
        "zantara_jwt_operations_total",
        "counter",
        "Tokens verified and issued; status is success or the reason of the refusal.",
        ("operation", "status", "role"),
    ),
    Spec(
        "zantara_limit_decisions_total",
        "counter",
        "Decisions of the rate limiter. source: store (counted in Redis), local, open, closed, or none (unlimited).",
        ("role", "outcome", "source"),
    ),
    Spec(
        "zantara_limit_shadow_denials_total",
        "counter",
        "Requests that a shadow policy would have denied.",
        ("policy",),
    ),
    Spec(
        "zantara_limiter_errors_total",
        "counter",
        "Decisions that the limiter's store did not answer, by the kind of error.",
        ("error",),
        most_series=50,
    ),
    Spec(
        "zantara_limiter_breaker_state",
        "gauge",
        "The limiter's circuit breaker: 0 closed, 1 half-open, 2 open; the worst of the living processes.",
    ),
    Spec(
        "zantara_sheds_total",
        "counter",
        "Requests refused to protect the others, by reason and the caller's role.",
        ("reason", "role"),
    ),
    Spec(
        "zantara_shed_delay_seconds",
        "histogram",
        "How long requests were held back under memory pressure (async services only).",
        ("role",),
        DELAY_BUCKETS,
        most_series=100,
    ),
    Spec(
        "zantara_admission_limit",
        "gauge",
        "How many requests at once a process admits at the moment; the largest of the living processes.",
    ),
    Spec(
        "zantara_memory_used_ratio",
        "gauge",
        "Memory in use (without page cache) as a share of the container's limit, or of the machine's without one.",
        at="scrape",
    ),
    Spec(
        "zantara_celery_queue_length",
        "gauge",
        "Messages that wait in a queue.",
        ("queue",),
        at="scrape",
    ),
    Spec(
        "zantara_celery_queue_oldest_seconds",
        "gauge",
        "Age of the oldest message that waits in a queue; 0 when it is empty.",
        ("queue",),
        at="scrape",
    ),
    Spec(
        "zantara_celery_task_duration_seconds",
        "histogram",
        "Time that tasks took, whether or not they succeeded.",
        ("task",),
        TASK_BUCKETS,
        most_series=200,
    ),
    Spec(
        "zantara_celery_task_failures_total",
        "counter",
        "Tasks that ended with an exception.",
        ("task",),
        most_series=200,
    ),
    Spec(
        "zantara_beat_heartbeat_age_seconds",
        "gauge",
        "Time since the scheduler last reached a worker.",
        at="scrape",
    ),
    Spec(
        "zantara_backup_runs_total",
        "counter",
        "Ends of attempts at a backup: committed, failed, cancelled or repeated (a worker or a store was lost).",
        ("plan", "outcome"),
        most_series=400,
    ),
    Spec(
        "zantara_backup_lease_lost_total",
        "counter",
        "Workers that found their backup, proof or restore taken over by another.",
    ),
    Spec(
        "zantara_backup_last_committed_timestamp_seconds",
        "gauge",
        "When the last restore point of a plan was committed, in seconds since 1970.",
        ("plan",),
        at="scrape",
    ),
    Spec(
        "zantara_backup_last_verified_timestamp_seconds",
        "gauge",
        "When every part of a restore point of the plan was last read through or restored (L2 or L3).",
        ("plan",),
        at="scrape",
    ),
    Spec(
        "zantara_backup_bytes",
        "gauge",
        "Size of the plan's last restore point at each stage: plain, compressed, stored.",
        ("plan", "stage"),
        at="scrape",
    ),
    Spec(
        "zantara_backup_duration_seconds",
        "gauge",
        "How long the plan's last restore point took to make.",
        ("plan",),
        at="scrape",
    ),
    Spec(
        "zantara_backup_drill_restore_seconds",
        "gauge",
        "How long the last drill took to restore an artifact: the measured time to recover.",
        ("plan", "artifact"),
        at="scrape",
    ),
    Spec(
        "zantara_backup_rpo_breach",
        "gauge",
        "1 if the plan's last restore point is older than its recovery point objective, or there is none.",
        ("plan",),
        at="scrape",
    ),
    Spec(
        "zantara_backup_orphans",
        "gauge",
        "Sets of a target without a record (in the store only) and records without a set (in the database only).",
        ("target", "kind"),
        at="scrape",
    ),
    Spec(
        "zantara_deployment_state",
        "gauge",
        "1 for the state that each deployment which is not over is in.",
        ("service", "release", "state"),
        at="scrape",
    ),
    Spec(
        "zantara_deployment_share_ratio",
        "gauge",
        "The share of a new release in its service's requests: requested, and effective as the edge was read back.",
        ("service", "release", "kind"),
        at="scrape",
    ),
    Spec(
        "zantara_deployment_evidence",
        "gauge",
        "The E-value against a new release, of the tests on errors and on slow requests.",
        ("service", "test"),
        at="scrape",
    ),
    Spec(
        "zantara_judge_source_age_seconds",
        "gauge",
        "Time since the health of a new release was last really seen, counters and instances both.",
        ("service",),
        at="scrape",
    ),
    Spec(
        "zantara_deployment_ends_total",
        "counter",
        "Deployments that are over, by the state in which they ended.",
        ("service", "state"),
        most_series=400,
    ),
    Spec(
        "zantara_deployment_detect_seconds",
        "histogram",
        "From the first bad request of a release that was taken back to the moment at which it had no share any more.",
        ("service",),
        DETECT_BUCKETS,
        most_series=100,
    ),
    Spec(
        "zantara_engine_tick_lag_seconds",
        "gauge",
        "How late the latest tick of a service is.",
        at="scrape",
    ),
    Spec(
        "zantara_engine_takeovers_total",
        "counter",
        "Ticks that took a service over from a process that never gave it back.",
    ),
    Spec(
        "zantara_engine_fence_rejections_total",
        "counter",
        "Ticks that found their service taken over by another, and wrote nothing more.",
    ),
    Spec(
        "zantara_instances",
        "gauge",
        "Instances of a service by their condition: starting, ready, unready, draining, stopping or failed.",
        ("service", "condition"),
        at="scrape",
    ),
    Spec(
        "zantara_scrape_errors_total",
        "counter",
        "Collectors that failed at a scrape; their gauges were absent from it.",
        ("collector",),
        most_series=50,
    ),
)
