from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.db import connection

from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from controlplane.kernel.registry import probes, schedules
from controlplane.samples import last_scrapes, taking
from controlplane.samples.models import Sample
from controlplane.samples.probe import probe_services
from controlplane.samples.series import Point, latest, many_series, series
from controlplane.samples.sources import Scrape, Source
from controlplane.samples.tasks import SCHEDULE, take_samples
from tests.samples.test_figures import scrape

START = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
SOURCES = (Source("one", "http://one/metrics"), Source("two", "http://two/metrics"))


class Services:
    """Services that answer what they are told to, at the time that the test says it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        self.served = {"one": 0, "two": 0}
        self.down: set[str] = set()
        self.asked: list[str] = []
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(taking, "scrape_all", self.scrape_all)

    def scrape_all(self, asked: Sequence[Source]) -> list[Scrape]:
        self.asked += [source.name for source in asked]
        return [
            Scrape(source, None, "ConnectError") if source.name in self.down
            else Scrape(source, scrape(ok=self.served[source.name]))
            for source in asked
        ]  # fmt: skip

    def tick(self, *, seconds: float = 15, serves: int = 30) -> taking.Tick:
        tick = taking.take_samples(asked=SOURCES)
        self.now += timedelta(seconds=seconds)
        self.served = {name: served + serves for name, served in self.served.items()}
        return tick


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, redis_url: str, db: None) -> Services:
    return Services(monkeypatch)


def rows(service: str = "one", resolution: int = 15) -> list[Sample]:
    return list(Sample.objects.filter(service=service, resolution=resolution).order_by("at"))


def test_each_tick_writes_one_row_for_each_service(services: Services) -> None:
    first = services.tick()
    services.tick()
    assert (first.up, first.down) == (("one", "two"), ())
    assert [(row.at, row.up, row.requests_per_second, row.connections) for row in rows()] == [
        (START, True, None, 40),  # at the first scrape nothing is known of rates
        (START + timedelta(seconds=15), True, 2.0, 40),
    ]
    assert len(rows("two")) == 2


def test_the_same_tick_twice_asks_nobody_and_writes_nothing(services: Services) -> None:
    services.tick(seconds=3)
    again = services.tick(seconds=12)
    assert (again.up, again.down, services.asked) == ((), (), ["one", "two"])
    services.tick()
    assert [row.requests_per_second for row in rows()] == [None, 4.0]  # 60 requests in 15 s: both steps count


def test_of_two_workers_at_the_same_tick_one_writes_and_the_other_s_scrape_is_forgotten(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.tick()
    real, raced = services.scrape_all, []

    def race(asked: Sequence[Source]) -> list[Scrape]:
        if not raced:
            raced.append(True)
            taking.take_samples(asked=SOURCES)  # the other worker is faster
            services.served["one"] += 1000
        return real(asked)

    monkeypatch.setattr(taking, "scrape_all", race)
    services.tick()
    assert raced == [True]
    assert [row.requests_per_second for row in rows()] == [None, 2.0]
    services.tick()
    assert rows()[-1].requests_per_second == pytest.approx(1030 / 15, abs=1e-3)  # what the loser saw is not lost


def test_a_service_that_is_down_is_a_gap_and_not_zero(services: Services) -> None:
    services.tick()
    services.down = {"one"}
    tick = services.tick()
    assert (tick.up, tick.down) == (("two",), ("one",))
    services.down = set()
    services.tick()
    assert [(row.up, row.samples_up, row.requests_per_second, row.memory_percent) for row in rows()] == [
        (True, 1, None, 42.56),
        (False, 0, None, None),
        (True, 1, 2.0, 42.56),  # 60 requests in the 30 s since it was last heard of
    ]


def test_a_service_that_started_again_counts_from_zero(services: Services) -> None:
    services.tick(serves=3000)
    services.served["one"] = 15
    services.tick()
    assert rows()[-1].requests_per_second == 1.0


def test_after_a_long_gap_or_a_clock_put_back_the_series_begins_anew(services: Services) -> None:
    services.tick(seconds=91)
    services.tick(seconds=-30)
    services.tick()
    assert [row.requests_per_second for row in rows()] == [None, None, None]


def test_a_tick_that_comes_a_moment_early_belongs_to_the_next_span(services: Services) -> None:
    services.now = START + timedelta(seconds=0.1)
    services.tick(seconds=14.8)
    services.tick(seconds=15.2)
    services.tick(seconds=14.8)
    services.tick()
    assert [(row.at - START).total_seconds() for row in rows()] == [0, 15, 30, 45]


@pytest.mark.faults
def test_without_redis_rows_have_gauges_and_no_rates(
    services: Services, redis_server_factory: Callable[..., Any], settings: Any
) -> None:
    server = redis_server_factory()
    settings.ZANTARA_REDIS_URL = server.url
    services.tick()
    server.kill()
    services.tick()
    services.tick()
    with pytest.raises(redis.RedisError):
        server.client().ping()
    assert [(row.up, row.requests_per_second, row.connections) for row in rows()] == [(True, None, 40)] * 3


def test_what_another_version_left_in_redis_is_no_scrape(services: Services, redis_client: redis.Redis) -> None:
    services.tick()
    for content in (b"nonsense", b"x\x9c\x03\x00\x00\x00\x00\x01"):
        redis_client.set("zantara:samples:last:one", content)
        assert list(last_scrapes.read(["one", "two"])) == ["two"]
    assert 0 < redis_client.ttl("zantara:samples:last:two") <= 90
    assert last_scrapes.read(["two"])["two"].scrape == scrape(ok=0)


def test_five_minutes_roll_up_once_they_are_complete(services: Services) -> None:
    for _ in range(22):
        services.tick()
    assert rows(resolution=300) == []  # 12:05:15: a late tick may still come
    rolled = services.tick()
    assert rolled.rolled_up == 2
    (row,) = rows(resolution=300)
    assert (row.at, row.samples, row.samples_up, row.seconds, row.requests) == (START, 20, 20, 285, 570)
    assert (row.requests_per_second, row.connections) == (2.0, 40)
    assert services.tick().rolled_up == 0


def test_rolling_up_catches_up_in_bounded_steps_and_leaves_gaps_out(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "MOST_WINDOWS", 2)
    begin = START - timedelta(hours=5)
    made = [begin + timedelta(minutes=m) for m in (0, 1, 5, 10, 15, 120, 125)]
    Sample.objects.bulk_create(
        Sample(service="one", resolution=15, at=at, up=True, samples_up=1, seconds=15, requests=15) for at in made
    )
    steps = [taking.roll_up_service("one", START) for _ in range(5)]
    assert steps == [2, 2, 2, 0, 0]
    assert [(row.at - begin).total_seconds() / 60 for row in rows(resolution=300)] == [0, 5, 10, 15, 120, 125]


def test_old_rows_are_deleted_in_bounded_batches_and_no_others(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "MOST_DELETED", 3)
    ages = {15: [47.9, 48.1, 49, 50, 51], 300: [24 * 89.9, 24 * 90.1]}
    Sample.objects.bulk_create(
        Sample(service="one", resolution=resolution, at=START - timedelta(hours=hours), up=True)
        for resolution, hours_ago in ages.items()
        for hours in hours_ago
    )
    assert [taking.prune(START) for _ in range(3)] == [4, 1, 0]
    assert [(row.resolution, row.at) for row in Sample.objects.order_by("resolution")] == [
        (15, START - timedelta(hours=47.9)),
        (300, START - timedelta(hours=24 * 89.9)),
    ]


def test_a_tick_takes_few_queries(services: Services, django_assert_max_num_queries: Any) -> None:
    services.tick()
    with django_assert_max_num_queries(15):  # for two services: 1 read, 2×3 writes, 2×2 roll-ups, 2 prunings
        services.tick()


# --- reading ---------------------------------------------------------------------------------


def test_a_series_is_one_query_with_gaps_where_a_service_was_down(
    services: Services, django_assert_num_queries: Any
) -> None:
    services.tick()
    services.tick()
    services.down = {"one"}
    services.tick()
    with django_assert_num_queries(1):
        drawn = series("one", "requests_per_second", START, START + timedelta(seconds=60), 4)
    assert drawn == tuple(
        Point(START + timedelta(seconds=15 * number), value) for number, value in enumerate([None, 2.0, None, None])
    )
    with django_assert_num_queries(1):
        both = many_series(["one", "two", "three"], ["connections", "p95_seconds"], START, services.now)
    assert [point.value for point in both["two"]["connections"]] == [40, 40, 40]
    assert {point.value for point in both["three"]["connections"]} == {None}


def test_an_older_series_comes_from_the_five_minute_rows(services: Services) -> None:
    at = START - timedelta(days=10)
    Sample.objects.create(service="one", resolution=300, at=at, up=True, p95_seconds=0.25)
    drawn = series("one", "p95_seconds", at, at + timedelta(hours=1), 500)
    assert [point.value for point in drawn] == [0.25, *[None] * 11]


@pytest.mark.parametrize("field", ["service", "at", "routes", "password"])
def test_only_figures_can_be_drawn(field: str, db: None) -> None:
    with pytest.raises(Refused, match="no figure"):
        series("one", field, START, START + timedelta(hours=1))


def test_the_probe_warns_of_a_service_that_does_not_answer(
    services: Services, settings: Any, django_assert_max_num_queries: Any
) -> None:
    settings.ZANTARA_SERVICES = ["one=http://one", "two=http://two"]
    assert probe_services().status == "unknown"
    services.tick()
    with django_assert_max_num_queries(2):
        passed = probe_services()
    assert (passed.status, passed.observed) == ("pass", 2.0)
    services.down = {"two"}
    services.tick()
    assert (probe_services().status, probe_services().summary) == ("warn", "no metrics from two")
    services.now += timedelta(seconds=90)
    assert probe_services().summary == "no recent sample of one, two"
    assert set(latest(["one", "two", "three"])) == {"one", "two"}
    probe = probes.get("services")
    assert (probe.critical, probe.timeout_seconds) == (False, 0.5)


# --- the task --------------------------------------------------------------------------------


def test_the_schedule_runs_each_15_seconds_and_nobody_can_edit_it() -> None:
    assert schedules.get("samples.take") is SCHEDULE
    assert (SCHEDULE.every_seconds, SCHEDULE.expires_seconds, SCHEDULE.queue, SCHEDULE.editable) == (
        15, 14, "engine", False,
    )  # fmt: skip
    assert SCHEDULE.task == take_samples.name
    assert take_samples.time_limit <= SCHEDULE.expires_seconds


def test_the_task_takes_the_samples_of_the_configured_services(services: Services, settings: Any) -> None:
    settings.ZANTARA_SERVICES = ["one=http://one"]
    assert take_samples() == "1 up, 0 down, 0 rolled up, 0 deleted"
    assert services.asked == ["one"]
    assert Sample.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_four_workers_at_the_same_tick_write_one_row(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    services = Services(monkeypatch)
    together, problems = threading.Barrier(4), []

    def work() -> None:
        try:
            together.wait(10)
            taking.take_samples(asked=SOURCES[:1])
        except Exception as error:  # noqa: BLE001  (whatever it is, the test shows it)
            problems.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert problems == []
    assert [(row.service, row.at) for row in Sample.objects.all()] == [("one", services.now)]
