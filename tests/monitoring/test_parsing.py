from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from controlplane.kernel.errors import Refused
from controlplane.monitoring.parsing import (
    Exposition,
    difference,
    error_share,
    from_families,
    labels_of,
    matches,
    parse,
    quantile,
)

TEXT = """\
# HELP zantara_requests_total Requests.
# TYPE zantara_requests_total counter
zantara_requests_total{method="GET",status="200",route="/a"} 7.0
zantara_requests_total{method="GET",status="503",route="/a"} 1.0
zantara_requests_total{method="POST",status="200",route="/b"} 2.0
# TYPE zantara_request_duration_seconds histogram
zantara_request_duration_seconds_bucket{le="0.1",route="/a"} 4.0
zantara_request_duration_seconds_bucket{le="0.3",route="/a"} 8.0
zantara_request_duration_seconds_bucket{le="+Inf",route="/a"} 10.0
zantara_request_duration_seconds_sum{route="/a"} 3.5
zantara_request_duration_seconds_count{route="/a"} 10.0
# TYPE zantara_active_connections gauge
zantara_active_connections 12.0
# TYPE broken gauge
broken NaN
"""
REQUESTS, DURATION = "zantara_requests_total", "zantara_request_duration_seconds"


def test_an_exposition_is_read_into_series_with_their_labels_and_kinds() -> None:
    read = parse(TEXT)
    assert read.total(REQUESTS) == 10
    assert read.total(REQUESTS, method="GET") == 8
    assert read.by(REQUESTS, "status") == {"200": 9, "503": 1}
    assert read.by(REQUESTS, "route", status="200") == {"/a": 7, "/b": 2}
    assert read.value("zantara_active_connections") == 12
    assert read.value("zantara_nowhere") is None
    assert read.total("zantara_nowhere") == 0
    assert (read.kinds[REQUESTS], read.kinds[DURATION + "_bucket"]) == ("counter", "histogram")
    assert "broken" not in read
    series = next(iter(read.of(REQUESTS)))
    assert labels_of(series) == {"method": "GET", "status": "200", "route": "/a"}
    assert matches(series, {"status": "200"})
    assert not matches(series, {"status": "500"})
    assert not matches(series, {"nothing": ""})


def test_only_the_named_metrics_are_read_with_all_their_parts() -> None:
    read = parse(TEXT, only=[DURATION])
    assert sorted(read.series) == [f"{DURATION}_bucket", f"{DURATION}_count", f"{DURATION}_sum"]
    assert read.kinds[f"{DURATION}_bucket"] == "histogram"
    assert read.of(f"{DURATION}_bucket") == parse(TEXT).of(f"{DURATION}_bucket")


@pytest.mark.parametrize("text", ["<html>Not found</html>", "{", "zantara_requests_total nothing"])
def test_what_is_no_exposition_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="no Prometheus exposition"):
        parse(text)


def test_a_registry_is_read_the_same_with_and_without_its_text() -> None:
    registry = CollectorRegistry()
    Counter("hits", "Hits.", ["who"], registry=registry).labels('a"\n\\b').inc(3)
    Gauge("level", "Level.", registry=registry).set(2.5)
    times = Histogram("times_seconds", "Times.", registry=registry, buckets=(0.1, 1))
    times.observe(0.05)
    times.observe(5)
    assert from_families(registry.collect()) == parse(generate_latest(registry).decode())
    assert sorted(from_families(registry.collect(), only=["level", "hits_total"]).series) == ["hits_total", "level"]


def counters(**values: float) -> Exposition:
    series = {(("status", name[1:]),): value for name, value in values.items()}
    return Exposition({REQUESTS: series}, {REQUESTS: "counter"})


def test_a_difference_gives_growth_rates_and_the_share_of_errors() -> None:
    passed = difference(counters(s200=100, s503=5), counters(s200=130, s503=15, s500=10), 10)
    assert passed.by(REQUESTS, "status") == {"200": 30, "503": 10, "500": 10}
    assert passed.rate(REQUESTS) == 5
    assert passed.rate(REQUESTS, status="500") == 1
    assert passed.error_share(REQUESTS) == 0.4
    assert passed.by_all(REQUESTS, ("status",), status="200") == {("200",): 30}


def test_a_counter_that_went_back_counts_from_zero() -> None:
    assert difference(counters(s200=100, s500=3), counters(s200=4, s500=3), 15).by(REQUESTS, "status") == {
        "200": 4,
        "500": 0,
    }


def test_the_parts_of_a_histogram_start_again_together() -> None:
    def histogram(low: float, all_: float, total: float) -> Exposition:
        return parse(
            "# TYPE d histogram\n"
            f'd_bucket{{le="0.1"}} {low}\nd_bucket{{le="+Inf"}} {all_}\nd_sum {total}\nd_count {all_}\n'
        )

    passed = difference(histogram(5, 100, 90), histogram(6, 8, 1), 1)
    assert passed.buckets("d") == ((0.1, 6), (math.inf, 8))
    assert (passed.total("d_count"), passed.total("d_sum")) == (8, 1)


def test_a_gauge_is_what_it_was_at_the_end_and_a_series_that_is_gone_counts_nothing() -> None:
    before = parse('# TYPE g gauge\ng{a="1"} 9\n# TYPE c_total counter\nc_total{a="1"} 5\n')
    after = parse('# TYPE g gauge\ng{a="1"} 4\ng{a="2"} 2\n')
    passed = difference(before, after, 1)
    assert (passed.gauge("g"), passed.gauge("g", a="2"), passed.gauge("h")) == (6, 2, None)
    assert passed.total("c_total") == 0


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_no_difference_without_time(seconds: float) -> None:
    with pytest.raises(Refused):
        difference(Exposition(), Exposition(), seconds)


def test_nothing_that_happened_gives_no_share_and_no_quantile() -> None:
    passed = difference(counters(s200=3), counters(s200=3), 5)
    assert passed.error_share(REQUESTS) is None
    assert passed.quantile(0.95, DURATION) is None
    assert passed.rate(REQUESTS) == 0


def test_only_answers_of_the_server_are_errors() -> None:
    assert error_share({"200": 1, "404": 1, "429": 1, "500": 1, "503": 1, "<other>": 0, "5": 0}) == 0.4
    assert error_share({}) is None


INF = math.inf


@pytest.mark.parametrize(
    ("q", "buckets", "expected"),
    [
        (0.5, ((0.1, 10), (0.3, 10), (INF, 10)), 0.05),  # within the first bucket, which begins at 0
        (0.5, ((0.1, 0), (0.3, 10), (INF, 10)), 0.2),
        (0.95, ((0.1, 50), (0.3, 90), (1.0, 100), (INF, 100)), 0.65),
        (0.95, ((0.1, 50), (0.3, 90), (INF, 100)), 0.3),  # beyond the last finite bound
        (1.0, ((0.1, 4), (0.3, 4), (INF, 4)), 0.1),
        (0.0, ((0.1, 0), (0.3, 4), (INF, 4)), 0.0),
        (0.9, ((0.1, 4), (0.3, 3), (INF, 4)), 0.09),  # a count that lags is lifted
        (0.5, ((0.1, 0), (INF, 0)), None),
        (0.5, ((0.1, 3), (0.3, 3)), None),  # no bucket for infinity
        (0.5, ((INF, 3),), None),
        (0.5, (), None),
    ],
)
def test_quantiles_are_those_of_prometheus(q: float, buckets: tuple, expected: float | None) -> None:
    found = quantile(q, buckets)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_what_is_no_quantile_is_refused(q: float) -> None:
    with pytest.raises(Refused):
        quantile(q, ((0.1, 1), (INF, 1)))


BOUNDS = (0.1, 0.3, 0.5, 0.7, 1.0, 3.0, 5.0, 7.0, 10.0, INF)
observed = st.lists(st.floats(0.001, 9.99), min_size=1, max_size=200)


def bucketed(values: list[float]) -> tuple[tuple[float, float], ...]:
    return tuple((bound, float(sum(value <= bound for value in values))) for bound in BOUNDS)


@given(observed, st.floats(0.001, 1))
@settings(deadline=None)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    rank = max(1, math.ceil(q * len(values) - 1e-9))
    true = sorted(values)[rank - 1]
    upper = next(bound for bound in BOUNDS if true <= bound)
    lower = ((0.0, *BOUNDS))[BOUNDS.index(upper)]
    found = quantile(q, bucketed(values))
    assert found is not None
    assert lower - 1e-9 <= found <= upper + 1e-9


@given(observed, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_a_higher_quantile_is_never_lower(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert (quantile(low, bucketed(values)) or 0) <= (quantile(high, bucketed(values)) or 0) + 1e-9


amounts = st.dictionaries(st.sampled_from(["s200", "s404", "s500", "s503"]), st.integers(0, 10**6))


@given(amounts, amounts)
def test_growth_is_never_negative_and_never_more_than_the_counter(before: dict, after: dict) -> None:
    passed = difference(counters(**before), counters(**after), 15)
    for name, value in after.items():
        assert 0 <= passed.total(REQUESTS, status=name[1:]) <= value


@given(amounts, amounts, amounts)
def test_two_differences_add_up_to_the_one_over_both(first: dict, second: dict, third: dict) -> None:
    start = counters(**first)
    middle = counters(**{k: first.get(k, 0) + v for k, v in (dict.fromkeys(first, 0) | second).items()})
    later = middle.of(REQUESTS)
    names = [labels[0][1] for labels in later]
    end = counters(**{f"s{name}": later[(("status", name),)] + third.get(f"s{name}", 0) for name in names})
    whole = difference(start, end, 2).by(REQUESTS, "status")
    parts = [difference(a, b, 1).by(REQUESTS, "status") for a, b in ((start, middle), (middle, end))]
    assert whole == {name: sum(part.get(name, 0) for part in parts) for name in whole}
