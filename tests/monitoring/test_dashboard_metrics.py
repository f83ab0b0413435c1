"""What the dashboard says of two scrapes: exact figures from known counts."""

from __future__ import annotations

import json

import pytest

from controlplane.kernel.errors import Refused
from controlplane.monitoring.dashboard import METRICS, dashboard_metrics
from controlplane.monitoring.parsing import Exposition, parse

BOUNDS = (0.1, 0.3, 0.5, 0.7, 1, 3, 5, 7, 10)


def requests(route: str, status: int, count: int, role: str = "anonymous", handler: str = "unknown") -> str:
    return (
        f'zantara_requests_total{{method="GET",route="{route}",status="{status}",'
        f'user_role="{role}",handler="{handler}"}} {count}\n'
    )


def durations(name: str, labels: str, counts: dict[float, int]) -> str:
    """A histogram with this many observations in the bucket that ends at each bound."""
    lines, total = "", 0
    for bound in BOUNDS:
        total += counts.get(bound, 0)
        lines += f'{name}_bucket{{{labels},le="{bound}"}} {total}\n'
    lines += f'{name}_bucket{{{labels},le="+Inf"}} {total}\n{name}_count{{{labels}}} {total}\n'
    return lines + f"{name}_sum{{{labels}}} {sum(bound * n for bound, n in counts.items())}\n"


def exposition(*parts: str) -> Exposition:
    """A scrape with these lines, sorted into their metrics as a service writes them."""
    groups: dict[str, list[str]] = {}
    for line in "".join(parts).splitlines():
        name = line.split("{")[0].split(" ")[0]
        for end in ("_bucket", "_sum", "_count"):
            name = name.removesuffix(end)
        groups.setdefault(name, []).append(line)
    kinds = {name: "counter" if name.endswith("_total") else "gauge" for name in groups}
    kinds |= {name: "histogram" for name in groups if name.endswith("_seconds")}
    return parse(
        "".join(f"# TYPE {name} {kinds[name]}\n" + "\n".join(found) + "\n" for name, found in groups.items()), METRICS
    )


HISTOGRAM = "zantara_request_duration_seconds"
NOTHING = exposition()


def test_the_keys_are_exactly_those_that_the_console_and_the_api_promise() -> None:
    assert list(dashboard_metrics(NOTHING, NOTHING, 1)) == [
        "requests", "responseTime", "activeConnections", "vectorOps", "jwtOps",
    ]  # fmt: skip


def test_rates_errors_and_quantiles_are_those_of_the_time_between_the_scrapes() -> None:
    before = exposition(
        requests("/a", 200, 100), durations(HISTOGRAM, 'method="GET",route="/a",handler="unknown"', {0.1: 100})
    )
    after = exposition(
        requests("/a", 200, 290),
        requests("/a", 500, 10),
        durations(HISTOGRAM, 'method="GET",route="/a",handler="unknown"', {0.1: 200, 1: 100}),
    )
    found = dashboard_metrics(before, after, 20)
    assert (found["requests"]["count"], found["requests"]["rate"]) == (200, 10.0)
    assert (found["requests"]["errors"], found["requests"]["error_share"]) == (10, 0.05)
    # 100 in (0, 0.1] and 100 in (0.7, 1]: the median is the first bucket's end, the 95th 9/10 into the last
    assert found["responseTime"]["p50_seconds"] == pytest.approx(0.1)
    assert found["responseTime"]["p95_seconds"] == pytest.approx(0.97)
    assert found["responseTime"]["mean_seconds"] == pytest.approx(0.55)


def test_routes_handlers_and_roles_come_busiest_first_each_with_its_own_figures() -> None:
    after = exposition(
        requests("/slow", 200, 10, role="CEO", handler="report"),
        requests("/fast", 200, 70, role="External", handler="recall"),
        requests("/fast", 503, 20, role="CEO", handler="recall"),
        requests("/fast", 429, 10, role="External", handler="recall"),
        durations(HISTOGRAM, 'method="GET",route="/slow",handler="report"', {5: 10}),
        durations(HISTOGRAM, 'method="GET",route="/fast",handler="recall"', {0.1: 100}),
        durations("zantara_role_duration_seconds", 'user_role="CEO"', {0.1: 20, 5: 10}),
    )
    found = dashboard_metrics(NOTHING, after, 10)["requests"]
    assert [(flow["name"], flow["rate"], flow["errors"]) for flow in found["byRoute"]] == [
        ("/fast", 10.0, 20), ("/slow", 1.0, 0),
    ]  # fmt: skip
    assert [flow["name"] for flow in found["byHandler"]] == ["recall", "report"]
    assert [(flow["name"], flow["count"], flow["error_share"]) for flow in found["byRole"]] == [
        ("External", 80, 0.0), ("CEO", 30, pytest.approx(2 / 3)),
    ]  # fmt: skip
    fast, slow = found["byRoute"]
    assert fast["p95_seconds"] == pytest.approx(0.095)
    assert slow["p95_seconds"] == pytest.approx(4.9)
    external, ceo = found["byRole"]
    assert external["p95_seconds"] is None
    assert ceo["p50_seconds"] == pytest.approx(0.075)


def test_operations_are_added_up_over_their_status_and_what_is_no_success_is_an_error() -> None:
    after = exposition(
        'zantara_vector_operations_total{operation="query",provider="chroma",status="success"} 30\n'
        'zantara_vector_operations_total{operation="query",provider="chroma",status="error"} 10\n'
        'zantara_vector_operations_total{operation="add",provider="memory",status="success"} 5\n',
        'zantara_jwt_operations_total{operation="verify",status="success",role="CEO"} 8\n'
        'zantara_jwt_operations_total{operation="verify",status="expired",role=""} 2\n',
    )
    found = dashboard_metrics(NOTHING, after, 5)
    assert found["vectorOps"] == {
        "count": 45, "rate": 9.0, "errors": 10,
        "byOperation": [
            {"operation": "query", "by": "chroma", "count": 40, "rate": 8.0, "errors": 10},
            {"operation": "add", "by": "memory", "count": 5, "rate": 1.0, "errors": 0},
        ],
    }  # fmt: skip
    assert (found["jwtOps"]["count"], found["jwtOps"]["errors"]) == (10, 2)


def test_connections_are_those_of_the_later_scrape() -> None:
    before = exposition("zantara_active_connections 900\nzantara_requests_in_flight 8\n")
    after = exposition("zantara_active_connections 12\nzantara_requests_in_flight 3\n")
    assert dashboard_metrics(before, after, 1)["activeConnections"] == {"established": 12, "in_flight": 3}


def test_a_service_that_started_again_counts_from_zero_and_never_backwards() -> None:
    found = dashboard_metrics(exposition(requests("/a", 200, 900)), exposition(requests("/a", 200, 30)), 10)
    assert (found["requests"]["count"], found["requests"]["rate"]) == (30, 3.0)


def test_without_traffic_there_is_no_guess_and_no_idle_route() -> None:
    idle = exposition(requests("/a", 200, 5), durations(HISTOGRAM, 'method="GET",route="/a",handler="x"', {0.1: 5}))
    found = dashboard_metrics(idle, idle, 15)
    assert found["requests"] == {
        "count": 0, "rate": 0.0, "errors": 0.0, "error_share": None, "byRoute": [], "byHandler": [], "byRole": [],
    }  # fmt: skip
    assert found["responseTime"] == {"p50_seconds": None, "p95_seconds": None, "mean_seconds": None}
    assert found["activeConnections"] == {"established": None, "in_flight": None}


def test_it_is_plain_json_and_time_must_have_passed() -> None:
    after = exposition(requests("/a", 200, 5), "zantara_active_connections 2\n")
    found = dashboard_metrics(NOTHING, after, 15)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    with pytest.raises(Refused):
        dashboard_metrics(NOTHING, after, 0)


def test_scrapes_and_health_checks_are_no_traffic() -> None:
    def scrape(work: int, probes: int) -> str:
        lines = ["# TYPE zantara_requests_total counter"]
        for route, count in (("/zantara.unified", work), ("/livez", probes), ("/metrics", probes), ("/health", probes)):
            labels = f'method="GET",route="{route}",status="200",user_role="anonymous",handler="unknown"'
            lines.append(f"zantara_requests_total{{{labels}}} {count}")
        return "\n".join(lines) + "\n"

    shown = dashboard_metrics(parse(scrape(10, 100)), parse(scrape(25, 400)), 5.0)
    assert (shown["requests"]["count"], shown["requests"]["rate"]) == (15, 3.0)
    assert [flow["name"] for flow in shown["requests"]["byRoute"]] == ["/zantara.unified"]
