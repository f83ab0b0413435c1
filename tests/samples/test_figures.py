from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kernel.errors import Refused
from controlplane.monitoring.catalogue import METRICS as CATALOGUE
from controlplane.monitoring.parsing import Exposition, parse
from controlplane.samples import figures, series
from controlplane.samples.figures import MOST_NAMED, figures_of, gauges_of, roll_up
from controlplane.samples.series import FIELDS, down_sample, most_points, resolution_for

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def scrape(
    *, ok: int = 0, failed: int = 0, slow: int = 0, sheds: int = 0, denied: int = 0, routes: int = 1
) -> Exposition:
    lines = ["# TYPE zantara_requests_total counter"]
    for number in range(routes):
        labels = f'method="GET",route="/r{number}",user_role="CEO",handler="h{number}"'
        lines.append(f'zantara_requests_total{{{labels},status="200"}} {ok * (number + 1)}')
        lines.append(f'zantara_requests_total{{{labels},status="500"}} {failed}')
    lines.append("# TYPE zantara_request_duration_seconds histogram")
    for bound, count in (("0.1", ok), ("3.0", ok + slow), ("+Inf", ok + slow)):
        labels = f'method="GET",route="/r0",handler="h0",le="{bound}"'
        lines.append(f"zantara_request_duration_seconds_bucket{{{labels}}} {count}")
    lines += [
        "# TYPE zantara_sheds_total counter",
        f'zantara_sheds_total{{reason="memory",role="External"}} {sheds}',
        "# TYPE zantara_limit_decisions_total counter",
        f'zantara_limit_decisions_total{{role="CEO",outcome="denied",source="store"}} {denied}',
        f'zantara_limit_decisions_total{{role="CEO",outcome="allowed",source="store"}} {ok}',
        "# TYPE zantara_jwt_operations_total counter",
        f'zantara_jwt_operations_total{{operation="verify",status="success",role="CEO"}} {ok}',
        f'zantara_jwt_operations_total{{operation="verify",status="expired",role="CEO"}} {failed}',
        "# TYPE zantara_vector_operations_total counter",
        f'zantara_vector_operations_total{{operation="query",provider="chroma",status="failure"}} {failed}',
        "# TYPE zantara_requests_in_flight gauge\nzantara_requests_in_flight 3",
        "# TYPE zantara_active_connections gauge\nzantara_active_connections 40",
        "# TYPE zantara_memory_used_ratio gauge\nzantara_memory_used_ratio 0.4256",
    ]
    return parse("\n".join(lines) + "\n")


def test_the_figures_of_a_row_are_those_of_the_time_between_two_scrapes() -> None:
    row = figures_of(scrape(ok=100, failed=10), scrape(ok=400, failed=25, slow=15, sheds=30, denied=60), 15.0)
    assert {name: row[name] for name in row if name not in ("routes", "handlers", "buckets", "roles")} == {
        "in_flight": 3, "connections": 40, "memory_percent": 42.56, "seconds": 15.0,
        "requests": 315, "requests_per_second": 21.0, "error_share": round(15 / 315, 4),
        "p50_seconds": 0.0525, "p95_seconds": pytest.approx(0.0998, abs=1e-4),
        "sheds_per_second": 2.0, "denied_per_second": 4.0,
        "jwt_per_second": 21.0, "jwt_errors_per_second": 1.0,
        "vector_per_second": 1.0, "vector_errors_per_second": 1.0,
    }  # fmt: skip
    assert row["roles"] == {"CEO": 21.0}
    assert row["routes"] == [["/r0", 315, 0.0476, pytest.approx(0.0998, abs=1e-4)]]
    assert row["handlers"] == [["h0", 315, 0.0476, pytest.approx(0.0998, abs=1e-4)]]
    assert row["buckets"] == [[0.1, 300], [3.0, 315], [None, 315]]
    assert json.loads(json.dumps(row)) == row


def test_the_busiest_routes_come_first_and_only_ten_are_named() -> None:
    row = figures_of(Exposition(), scrape(ok=5, routes=30), 15.0)
    assert [name for name, *_ in row["routes"]] == [f"/r{number}" for number in range(29, 19, -1)]
    assert len(row["handlers"]) == MOST_NAMED


def test_a_quiet_service_has_zero_requests_and_no_share_and_no_quantiles() -> None:
    row = figures_of(scrape(ok=7), scrape(ok=7), 15.0)
    assert (row["requests"], row["requests_per_second"], row["sheds_per_second"]) == (0, 0, 0)
    assert (row["error_share"], row["p50_seconds"], row["p95_seconds"]) == (None, None, None)
    assert (row["routes"], row["roles"], row["buckets"]) == ([], {}, [])


def test_a_service_that_does_not_tell_its_memory_has_none() -> None:
    assert gauges_of(Exposition()) == {"in_flight": None, "connections": None, "memory_percent": None}


def test_every_metric_that_is_sampled_is_declared() -> None:
    declared = {spec.name for spec in CATALOGUE}
    sampled = {
        figures.SHEDS, figures.DECISIONS, figures.IN_FLIGHT, figures.CONNECTIONS, figures.MEMORY, figures.DURATION,
        "zantara_requests_total", "zantara_vector_operations_total", "zantara_jwt_operations_total",
    }  # fmt: skip
    assert sampled <= declared
    assert sampled <= set(figures.METRICS)


def row(**changes: Any) -> dict[str, Any]:
    made = figures_of(scrape(), scrape(ok=30), 15.0)
    return {"samples": 1, "samples_up": 1, **made, **changes}


DOWN = {
    "samples": 1, "samples_up": 0, "seconds": None, "requests": None, "error_share": None, "p50_seconds": None,
    "p95_seconds": None, "roles": {}, "routes": [], "handlers": [], "buckets": [],
    **dict.fromkeys((*figures.RATES, *figures.GAUGES)),
}  # fmt: skip


def test_rows_roll_up_to_one_that_says_the_same_of_the_longer_time() -> None:
    first, second = (
        {"samples": 1, "samples_up": 1, **figures_of(scrape(), scrape(ok=100), 15.0)},
        {"samples": 1, "samples_up": 1, **figures_of(scrape(), scrape(ok=0, failed=50, slow=100), 15.0)},
    )
    rolled = roll_up([first, DOWN, {**second, "connections": 7}])
    assert (rolled["up"], rolled["samples"], rolled["samples_up"], rolled["seconds"]) == (True, 3, 2, 30.0)
    assert (rolled["requests"], rolled["requests_per_second"], rolled["error_share"]) == (
        150,
        5.0,
        pytest.approx(1 / 3, abs=1e-4),
    )
    assert (rolled["connections"], rolled["in_flight"], rolled["memory_percent"]) == (40, 3, 42.56)
    assert rolled["buckets"] == [[0.1, 100], [3.0, 200], [None, 200]]
    assert rolled["p50_seconds"] == 0.1
    assert rolled["p95_seconds"] == pytest.approx(0.1 + 2.9 * 0.9)
    assert rolled["roles"] == {"CEO": 5.0}
    (route,) = rolled["routes"]
    assert route == ["/r0", 150, 0.3333, max(first["routes"][0][3], second["routes"][0][3])]


def test_a_time_in_which_a_service_was_down_rolls_up_to_nothing_known() -> None:
    rolled = roll_up([DOWN, DOWN])
    assert (rolled["up"], rolled["samples"], rolled["samples_up"]) == (False, 2, 0)
    assert {rolled[name] for name in (*figures.RATES, *figures.GAUGES, "seconds", "requests", "error_share")} == {None}


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 100)), min_size=1, max_size=20))
def test_rolling_up_loses_no_request_and_no_error(counts: list[tuple[int, int]]) -> None:
    rows = [row(**figures_of(scrape(), scrape(ok=ok, failed=failed), 15.0)) for ok, failed in counts]
    rolled = roll_up(rows)
    total, errors = sum(ok + failed for ok, failed in counts), sum(failed for _, failed in counts)
    assert rolled["requests"] == total
    assert rolled["requests_per_second"] == pytest.approx(total / (15 * len(counts)), abs=1e-3)
    assert (rolled["error_share"] or 0) * total == pytest.approx(errors, abs=0.001 * total + 1e-9)


# --- series for charts -----------------------------------------------------------------------


def test_points_are_means_or_peaks_and_a_gap_is_none() -> None:
    since, until = NOW, NOW + timedelta(seconds=60)
    rows = [
        (NOW - timedelta(seconds=1), 99.0),
        (NOW, 1.0),
        (NOW + timedelta(seconds=15), 3.0),
        (NOW + timedelta(seconds=30), None),
        (NOW + timedelta(seconds=60), 99.0),
    ]
    means = down_sample(rows, since=since, until=until, points=2, how="mean")
    peaks = down_sample(rows, since=since, until=until, points=2, how="max")
    assert [(point.at, point.value) for point in means] == [(NOW, 2.0), (NOW + timedelta(seconds=30), None)]
    assert [point.value for point in peaks] == [3.0, None]


def test_the_rows_that_are_read_fit_the_span() -> None:
    day = timedelta(days=1)
    assert resolution_for(NOW - timedelta(hours=1), NOW, NOW) == 15
    assert resolution_for(NOW - timedelta(hours=12), NOW, NOW) == 15
    assert resolution_for(NOW - day, NOW, NOW) == 300  # 5760 rows of 15 s are more than a chart shows
    assert resolution_for(NOW - 3 * day, NOW - 3 * day + timedelta(hours=1), NOW) == 300  # no longer kept
    assert most_points(NOW, NOW + timedelta(minutes=5), 120, 15) == 20
    assert most_points(NOW, NOW + timedelta(days=1), 120, 300) == 120


@pytest.mark.parametrize(
    ("since", "until", "points"),
    [(NOW, NOW, 10), (NOW, NOW - timedelta(1), 10), (NOW, NOW + timedelta(1), 0), (NOW, NOW + timedelta(1), 2001)],
)
def test_a_span_that_makes_no_sense_is_refused(since: datetime, until: datetime, points: int) -> None:
    with pytest.raises(Refused):
        down_sample([], since=since, until=until, points=points, how="mean")


@given(st.lists(st.tuples(st.integers(-100, 1100), st.none() | st.floats(0, 1e6)), max_size=50), st.integers(1, 50))
def test_no_point_is_outside_what_was_measured(measured: list[tuple[int, float | None]], points: int) -> None:
    since, until = NOW, NOW + timedelta(seconds=1000)
    rows = [(NOW + timedelta(seconds=at), value) for at, value in measured]
    inside = [value for at, value in measured if value is not None and 0 <= at < 1000]
    for how in ("mean", "max"):
        found = down_sample(rows, since=since, until=until, points=points, how=how)  # type: ignore[arg-type]
        values = [point.value for point in found if point.value is not None]
        assert len(found) == points
        assert bool(values) == bool(inside)
        assert all(min(inside) - 1e-6 <= value <= max(inside) + 1e-6 for value in values)
        if inside and how == "max":
            assert max(values) == max(inside)


def test_every_figure_that_can_be_drawn_is_a_field_of_the_rows() -> None:
    from controlplane.samples.models import Sample

    assert set(FIELDS) <= {field.name for field in Sample._meta.get_fields()}
    assert set(FIELDS.values()) == {"mean", "max"}
    assert series.MOST_POINTS == 2000
