"""The start page's dashboard: what it says of known samples, what a poll costs, and what it shows before the first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from controlplane.console.pages import dashboard, figures, start
from controlplane.console.pages.board import Board
from controlplane.console.pages.figures import SPANS, level, milliseconds, number, percent, window
from controlplane.console.pages.work import work_now
from controlplane.kernel import clock
from controlplane.monitoring.parsing import parse
from controlplane.samples import shown
from controlplane.samples.last_scrapes import LastScrape
from controlplane.samples.models import Sample
from controlplane.schedules.tasks import heartbeat
from tests.console.people import person, signed_in

NOON = datetime(2026, 5, 1, 12, 0, 7, tzinfo=UTC)
POLL = "/admin/start/figures/"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, settings: Any, redis_url: str) -> None:
    monkeypatch.setattr(start, "board", Board([], lambda asked: {}))
    settings.ZANTARA_SERVICES = ["control-plane=http://127.0.0.1:1", "sample=http://127.0.0.1:2"]


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOON)


def sample(service: str = "sample", at: datetime = NOON, **fields: Any) -> Sample:
    known = {"requests_per_second": 12.5, "error_share": 0.02, "p50_seconds": 0.05, "p95_seconds": 1.2,
             "sheds_per_second": 0.0, "denied_per_second": 3.0, "in_flight": 1.0, "connections": 801.0,
             "memory_percent": 41.26, "seconds": 15.0, "requests": 187.0}  # fmt: skip
    begin = datetime.fromtimestamp(int(at.timestamp()) // 15 * 15, UTC)
    return Sample.objects.create(service=service, resolution=15, at=begin, up=True, **known | fields)


def scrape(count: int) -> LastScrape:
    text = "# TYPE zantara_requests_total counter\n"
    for route in ("/zantara.unified", "/<img src=x>"):
        text += (
            f'zantara_requests_total{{method="GET",route="{route}",status="200",user_role="CEO",'
            f'handler="recall"}} {count}\n'
        )
    text += '# TYPE zantara_jwt_operations_total counter\nzantara_jwt_operations_total{operation="verify",'
    text += f'status="success",role="CEO"}} {count}\n'
    return LastScrape(NOON + timedelta(seconds=count // 10), parse(text))


def keep_figures() -> None:
    shown.keep({"sample": scrape(0)}, {"sample": scrape(150)})


# --- what it says ------------------------------------------------------------------------------


def test_numbers_have_the_digits_that_matter() -> None:
    assert [number(value) for value in (None, 0, 0.256, 12.34, 12.0, 1240.4, 0.001)] == [
        "–", "0", "0.26", "12.3", "12", "1\u202f240", "0",
    ]  # fmt: skip
    assert [milliseconds(value) for value in (None, 0.0123, 0.5, 1.4, 12)] == [
        "–",
        "12.3 ms",
        "500 ms",
        "1.4 s",
        "12 s",
    ]
    assert [percent(value) for value in (None, 0.0, 0.025, 1.0)] == ["–", "0 %", "2.5 %", "100 %"]


@pytest.mark.parametrize(("value", "judged"), [(None, ""), (74.9, ""), (75, "warn"), (89.9, "warn"), (90, "bad")])
def test_a_figure_is_judged_at_its_bounds(value: float | None, judged: str) -> None:
    assert level(value, figures.MEMORY_PERCENT) == judged


def test_the_tiles_show_the_newest_sample_in_words_as_well_as_colours(db: None, at_noon: None) -> None:
    sample(at=NOON - timedelta(seconds=30), requests_per_second=1.0)
    sample()
    page = " ".join(signed_in(person("Viewer")).get("/admin/").content.decode().split())
    for text in ("<b>12.5</b>", "<b>2 %</b>", "<b>1.2 s</b>", "p95, median 50 ms", "<b>801</b>", "<b>41.3 %</b>",
                 "1 request in flight", "per second, 3 over a limit"):  # fmt: skip
        assert text in page
    tiles = {tile["name"]: tile for tile in dashboard.now_context("sample")["tiles"]}
    assert {name: tile["level"] for name, tile in tiles.items()} == {
        "requests": "", "errors": "warn", "response-time": "bad", "refused": "", "connections": "warn", "memory": "",
    }  # fmt: skip
    assert "High" in tiles["errors"]["badge"]
    assert "Too high" in tiles["response-time"]["badge"]
    assert 'href="/admin/docs/dashboard/#memory"' in page


def test_the_tables_rank_what_the_last_two_scrapes_say_and_escape_it(db: None, at_noon: None) -> None:
    sample()
    keep_figures()
    page = signed_in(person("Viewer")).get("/admin/").content.decode()
    assert "/&lt;img src=x&gt;" in page
    assert "<img src=x>" not in page
    assert [table["name"] for table in dashboard.now_context("sample")["tables"]] == [
        "routes", "handlers", "roles", "tokens",
    ]  # fmt: skip
    handlers = dashboard.now_context("sample")["tables"][1]
    assert [(line["name"], line["cells"]) for line in handlers["rows"]] == [("recall", ["20", "0 %"])]


def test_before_the_first_sample_the_page_says_when_there_will_be_one(db: None) -> None:
    page = signed_in(person("Viewer")).get("/admin/").content.decode()
    assert "First figures within 30 seconds." in page


def test_without_a_service_the_page_says_how_to_name_one(db: None, settings: Any) -> None:
    client = signed_in(person("Viewer"))
    for lines in ([], ["not an entry"]):
        settings.ZANTARA_SERVICES = lines
        assert "No service is sampled." in client.get("/admin/").content.decode()
        assert client.get(POLL).json()["points"] == {}


def test_a_service_that_does_not_answer_or_is_not_asked_any_more_is_marked(db: None, at_noon: None) -> None:
    sample(at=NOON - timedelta(minutes=5))
    assert "No new figures" in dashboard.now_context("sample")["state"]
    Sample.objects.create(service="sample", resolution=15, at=NOON, up=False)
    assert "No answer" in dashboard.now_context("sample")["state"]
    assert [tile["value"] for tile in dashboard.now_context("sample")["tiles"]] == ["–"] * 6


def test_the_first_service_shown_is_not_the_control_plane_itself(db: None, settings: Any) -> None:
    client = signed_in(person("Viewer"))
    assert client.get("/admin/").context["service"] == "sample"
    assert client.get("/admin/?service=control-plane").context["service"] == "control-plane"
    assert client.get("/admin/?service=<x>&range=<y>").context["service"] == "sample"
    assert client.get("/admin/?range=90d").context["span"].key == "90d"
    settings.ZANTARA_SERVICES = ["control-plane=http://127.0.0.1:1"]
    assert client.get("/admin/").context["service"] == "control-plane"


# --- the poll ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [POLL, POLL + "?service=sample&range=6h"])
def test_the_figures_are_for_staff_alone(client: Client, db: None, path: str) -> None:
    assert client.get(path).status_code == 302
    assert signed_in(person("Viewer", is_staff=False)).get(path).status_code == 302
    assert signed_in(person("")).get(path).status_code == 200


def test_a_poll_gives_all_points_and_then_only_the_newest(db: None, at_noon: None) -> None:
    for back in range(0, 300, 15):
        sample(at=NOON - timedelta(seconds=back), requests_per_second=float(back))
    client = signed_in(person("Viewer"))
    whole = client.get(POLL + "?service=sample&range=1h").json()["points"]
    assert len(whole["at"]) == 240
    assert whole["requests_per_second"][-20:] == [float(back) for back in range(285, -1, -15)]
    assert whole["requests_per_second"][:220] == [None] * 220
    assert set(whole) == {"at", *figures.FIELDS}
    fresh = client.get(f"{POLL}?service=sample&range=1h&after={whole['at'][-3]}").json()["points"]
    assert fresh["at"] == whole["at"][-3:]
    assert fresh["requests_per_second"] == [30.0, 15.0, 0.0]
    assert client.get(POLL + "?service=sample&range=90d&points=none").json()["points"] == {}


@pytest.mark.parametrize("after", ["", "x", "-1", "9" * 30, "0", "99999999999999"])
def test_whatever_a_poll_asks_for_it_gets_points_within_the_span(db: None, after: str) -> None:
    points = signed_in(person("Viewer")).get(POLL, {"range": "1h", "after": after}).json()["points"]
    assert 1 <= len(points["at"]) <= 240


@pytest.mark.parametrize("span", SPANS, ids=lambda span: span.key)
def test_points_lie_on_one_grid_from_poll_to_poll(span: figures.Span) -> None:
    since, until, points = window(span, NOON)
    assert (points, (until - since).total_seconds()) == (span.points, span.seconds)
    assert since < NOON < until <= NOON + timedelta(seconds=span.width_seconds)
    later = window(span, NOON + timedelta(seconds=span.width_seconds))
    assert later[0] - since == timedelta(seconds=span.width_seconds)


def test_a_poll_costs_four_queries_and_the_page_no_more_for_many_services(
    db: None, settings: Any, django_assert_num_queries: Any
) -> None:
    sample(at=clock.now())
    client = signed_in(person("Viewer"))
    with django_assert_num_queries(4):  # session, user, the newest row, the points
        client.get(POLL + "?service=sample&range=1h")
    with django_assert_num_queries(3):
        client.get(POLL + "?service=sample&range=90d&points=none")
    settings.ZANTARA_SERVICES = [f"s{n}=http://127.0.0.1:1" for n in range(30)]
    with django_assert_num_queries(4):
        client.get(POLL + "?service=s7&range=1h")


def test_a_poll_gives_only_the_points_that_are_new_however_many_are_kept(db: None, at_noon: None) -> None:
    noon = NOON.replace(second=0)
    Sample.objects.bulk_create(
        Sample(service=name, resolution=15, at=noon - timedelta(seconds=15 * n), up=True, requests_per_second=n)
        for name in ("sample", "control-plane") for n in range(8 * 240)
    )  # fmt: skip
    last = noon - timedelta(seconds=90)
    poll = signed_in(person("Viewer")).get(f"{POLL}?service=sample&range=6h&after={last.timestamp() * 1000:.0f}")
    assert poll.json()["points"]["at"] == [last.timestamp() * 1000, noon.timestamp() * 1000]


# --- the figures that a row has no columns for -------------------------------------------------


def test_the_newest_figures_are_kept_for_the_services_that_were_scraped_twice(redis_client: Any) -> None:
    shown.keep({"sample": scrape(0)}, {"sample": scrape(150), "new": scrape(150)})
    found = shown.latest_metrics(["sample", "new"])
    assert list(found) == ["sample"]
    assert (found["sample"].seconds, found["sample"].metrics["requests"]["rate"]) == (15.0, 20.0)
    assert 0 < redis_client.ttl("zantara:samples:shown:sample") <= 90


def test_many_routes_are_cut_to_the_busiest(redis_url: str) -> None:
    lines = "".join(
        f'zantara_requests_total{{method="GET",route="/{n}",status="200",user_role="a",handler="b"}} {n}\n'
        for n in range(300)
    )
    after = LastScrape(NOON + timedelta(seconds=15), parse("# TYPE zantara_requests_total counter\n" + lines))
    shown.keep({"sample": LastScrape(NOON, parse(""))}, {"sample": after})
    routes = shown.latest_metrics(["sample"])["sample"].metrics["requests"]["byRoute"]
    assert [flow["name"] for flow in routes] == [f"/{n}" for n in range(299, 279, -1)]


def test_two_scrapes_without_time_between_them_say_nothing(redis_url: str) -> None:
    shown.keep({"sample": scrape(150)}, {"sample": scrape(150)})
    assert shown.latest_metrics(["sample"]) == {}


def test_what_another_version_wrote_is_not_shown(redis_client: Any) -> None:
    for text in ("no json", "[]", "{}", '{"at": "x", "seconds": 1, "metrics": {}}'):
        redis_client.set("zantara:samples:shown:sample", text)
        assert shown.latest_metrics(["sample"]) == {}


# --- the card of the queues --------------------------------------------------------------------


def test_the_card_of_the_queues_says_what_waits_and_how_long(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOON)
    heartbeat.apply_async(queue="work")
    monkeypatch.setattr(clock, "now", lambda: NOON + timedelta(seconds=90))
    engine, work, _proof = work_now()["queues"]
    assert (engine["length"], engine["oldest"], engine["badge"]) == (0, "–", "")
    assert (work["length"], work["oldest"]) == (1, "1 min 30 s")
    assert "Waits long" in work["badge"]
