"""The declarations: names that dashboards and alerts rely on, bounded series, and the page that lists them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from django.core.management import call_command

from controlplane.identity import tokens
from controlplane.kernel.errors import ConfigurationError
from controlplane.monitoring import metrics, registry
from controlplane.monitoring.catalogue import DURATION_BUCKETS, METRICS, Spec
from controlplane.monitoring.exposition import exposition
from controlplane.monitoring.registry import OVERFLOW, Counter, Reading, exact
from tests.monitoring.counting import value

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def now(name: str, **labels: str) -> float:
    return value(exposition()[0], name, **labels)


def test_the_names_and_labels_are_pinned() -> None:
    pinned = {spec.name: spec.labels for spec in METRICS}
    assert len(pinned) == len(METRICS)
    assert pinned == {
        "zantara_requests_total": ("method", "route", "status", "user_role", "handler"),
        "zantara_request_duration_seconds": ("method", "route", "handler"),
        "zantara_role_duration_seconds": ("user_role",),
        "zantara_requests_in_flight": (),
        "zantara_active_connections": (),
        "zantara_vector_operations_total": ("operation", "provider", "status"),
        "zantara_jwt_operations_total": ("operation", "status", "role"),
        "zantara_limit_decisions_total": ("role", "outcome", "source"),
        "zantara_limit_shadow_denials_total": ("policy",),
        "zantara_limiter_errors_total": ("error",),
        "zantara_limiter_breaker_state": (),
        "zantara_sheds_total": ("reason", "role"),
        "zantara_shed_delay_seconds": ("role",),
        "zantara_admission_limit": (),
        "zantara_memory_used_ratio": (),
        "zantara_celery_queue_length": ("queue",),
        "zantara_celery_queue_oldest_seconds": ("queue",),
        "zantara_celery_task_duration_seconds": ("task",),
        "zantara_celery_task_failures_total": ("task",),
        "zantara_beat_heartbeat_age_seconds": (),
        "zantara_backup_runs_total": ("plan", "outcome"),
        "zantara_backup_lease_lost_total": (),
        "zantara_backup_last_committed_timestamp_seconds": ("plan",),
        "zantara_backup_last_verified_timestamp_seconds": ("plan",),
        "zantara_backup_bytes": ("plan", "stage"),
        "zantara_backup_duration_seconds": ("plan",),
        "zantara_backup_drill_restore_seconds": ("plan", "artifact"),
        "zantara_backup_rpo_breach": ("plan",),
        "zantara_backup_orphans": ("target", "kind"),
        "zantara_deployment_state": ("service", "release", "state"),
        "zantara_deployment_share_ratio": ("service", "release", "kind"),
        "zantara_deployment_evidence": ("service", "test"),
        "zantara_judge_source_age_seconds": ("service",),
        "zantara_deployment_ends_total": ("service", "state"),
        "zantara_deployment_detect_seconds": ("service",),
        "zantara_engine_tick_lag_seconds": (),
        "zantara_engine_takeovers_total": (),
        "zantara_engine_fence_rejections_total": (),
        "zantara_instances": ("service", "condition"),
        "zantara_scrape_errors_total": ("collector",),
    }
    assert DURATION_BUCKETS == (0.1, 0.3, 0.5, 0.7, 1, 3, 5, 7, 10)


def test_the_page_lists_what_the_command_prints() -> None:
    printed = io.StringIO()
    call_command("metrics", "--table", stdout=printed)
    listed = re.search(r"<!-- metrics -->\n(.*?)<!-- /metrics -->", PAGE.read_text(), re.DOTALL)
    assert listed is not None
    assert listed[1] == printed.getvalue()


def test_the_command_prints_the_text() -> None:
    metrics.count_shed("limit", "CEO")
    printed = io.StringIO()
    call_command("metrics", stdout=printed)
    assert value(printed.getvalue(), "zantara_sheds_total", reason="limit", role="CEO") >= 1


def test_an_unknown_metric_and_wrong_labels_are_refused() -> None:
    for wrong in (
        lambda: registry.counter("zantara_nonsense_total"),
        lambda: registry.histogram("zantara_requests_total"),
        lambda: registry.gauge("zantara_active_connections"),
        lambda: metrics._sheds.add(("one",)),
        lambda: Reading("zantara_active_connections", 1, ("label",)),
        lambda: Reading("zantara_limiter_breaker_state", 1),
    ):
        with pytest.raises(ConfigurationError):
            wrong()


def test_beyond_the_cap_everything_is_counted_under_overflow() -> None:
    import prometheus_client

    spec = Spec("toy_capped_total", "counter", "A toy.", ("who",), most_series=5)
    own = prometheus_client.CollectorRegistry()
    family = Counter(spec, lambda: prometheus_client.Counter(spec.name, spec.help, spec.labels, registry=own))
    for number in range(1000):
        family.add((f"caller {number}",))
    family.add(("caller 3",))
    text = prometheus_client.generate_latest(own)
    assert text.count(b"toy_capped_total{") == 6
    assert value(text, "toy_capped_total", who="caller 3") == 2
    assert value(text, "toy_capped_total", who=OVERFLOW) == 995
    assert len(family._children) == 5


def test_a_label_that_no_encoding_knows_does_no_harm() -> None:
    metrics.count_vector_operation("half a \ud800 pair", "x" * 5000, "success")
    text = exposition()[0]
    assert value(text, "zantara_vector_operations_total", operation="half a ? pair", provider="x" * 200) == 1


def test_durations_are_rounded_so_that_their_sums_are_exact() -> None:
    numbers = [exact(n / 7) for n in range(1, 2000)]
    assert sum(numbers) == sum(reversed(numbers))
    assert all(abs(exact(n / 7) - n / 7) <= 2**-21 for n in range(1, 2000))


def test_tokens_are_counted_when_they_are_verified_and_issued() -> None:
    metrics.listen_to_tokens()
    metrics.listen_to_tokens()
    assert tokens.on_operation.count(metrics.count_jwt_operation) == 1
    before = {
        "issue": now("zantara_jwt_operations_total", operation="issue", status="success", role="CEO"),
        "verify": now("zantara_jwt_operations_total", operation="verify", status="success", role="CEO"),
        "refused": now("zantara_jwt_operations_total", operation="verify", status="malformed"),
    }
    tokens.verify(tokens.issue("anna", "CEO", 60))
    with pytest.raises(tokens.TokenRefused):
        tokens.verify("nonsense")
    assert now("zantara_jwt_operations_total", operation="issue", status="success", role="CEO") == before["issue"] + 1
    assert now("zantara_jwt_operations_total", operation="verify", status="success", role="CEO") == before["verify"] + 1
    assert now("zantara_jwt_operations_total", operation="verify", status="malformed") == before["refused"] + 1


def test_a_vector_operation_that_raises_is_a_failure() -> None:
    @metrics.vector_operation("search", "toy")
    def search(number: int) -> float:
        return 1 / number

    assert search(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        search(0)
    assert now("zantara_vector_operations_total", operation="search", provider="toy", status="success") == 1
    assert now("zantara_vector_operations_total", operation="search", provider="toy", status="failure") == 1


def test_the_breaker_says_in_which_state_it_is(redis_server_factory) -> None:  # type: ignore[no-untyped-def]
    from ratelimits.config import LimitsConfig
    from ratelimits.limiter import Asker, Limiter
    from ratelimits.limiter.breaker import PROBE_EVERY_SECONDS

    server = redis_server_factory()
    limiter = Limiter(LimitsConfig(server.url, b"secret", (), 0.5, 2, ()))
    asker = Asker("default", "", "192.0.2.1", "/")
    limiter.decide(asker)
    assert now("zantara_limiter_breaker_state") == 0
    server.kill()
    errors = now("zantara_limiter_errors_total")
    for _ in range(5):
        limiter.decide(asker)
    assert limiter.breaker_state == "open"  # the fault fired
    assert now("zantara_limiter_breaker_state") == 2
    assert now("zantara_limiter_errors_total") == errors + 3
    server.start()
    limiter.breaker._next_probe_at -= PROBE_EVERY_SECONDS
    assert limiter.breaker.admits()
    assert now("zantara_limiter_breaker_state") == 1
    limiter.breaker.succeeded()
    assert now("zantara_limiter_breaker_state") == 0


def test_operations_on_vectors_are_counted_where_they_are_done(redis_client, free_port) -> None:  # type: ignore[no-untyped-def]
    from controlplane.kernel.errors import Unavailable
    from examples.zantara.chroma import ChromaClient
    from examples.zantara.vectors import Record, VectorStore

    def seen(operation: str, provider: str, status: str) -> float:
        labels = {"operation": operation, "provider": provider, "status": status}
        return now("zantara_vector_operations_total", **labels)

    names = ("add", "search", "page", "import", "delete")
    before = {name: seen(name, "redis", "success") for name in names}
    store = VectorStore(redis_client)
    record = Record("one", "text", [1.0] * 384)
    store.add(record)
    assert [match.id for match in store.search([1.0] * 384, 1)] == ["one"]
    assert [found.id for found in store.page(None)] == ["one"]
    store.import_all([record], "replace")
    assert store.delete("one")
    assert {name: seen(name, "redis", "success") - before[name] for name in names} == dict.fromkeys(names, 1.0)
    failures = seen("query", "chroma", "failure")
    client = ChromaClient(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable):
        client.query("c", [1.0], 1)
    client.close()
    assert seen("query", "chroma", "failure") == failures + 1
