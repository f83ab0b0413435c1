"""The page of one deployment: where it is, exposure, verdict, health, instances, steps, log, events; live."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from controlplane.kernel import clock
from deployments.admin.points import MOST_POINTS
from deployments.engine.requests import request_command
from deployments.judge.types import Counts
from deployments.machines import DEPLOYMENT
from deployments.models import Deployment, LineStop, Release, Service
from tests.backups.factories import files_plan, record_of
from tests.deployments import factories

from .pages import HISTORY, change, part, text_of

pytestmark = pytest.mark.django_db

QUERIES_OF_THE_PAGE = 9
QUERIES_OF_A_POLL = 8
QUERIES_OF_THE_POINTS = 4


@pytest.fixture
def shop() -> Service:
    return factories.make_service()


@pytest.fixture
def releases(shop: Service) -> tuple[Release, Release]:
    return factories.make_release(shop, "41"), factories.make_release(shop, "42")


@pytest.fixture
def baking(shop: Service, releases: tuple[Release, Release]) -> Deployment:
    old, new = releases
    factories.serve(shop, old)
    deployment = factories.make_deployment(shop, new, from_release=old)
    factories.make_instance(shop, new, deployment=deployment)
    return deployment


def page_of(deployment: Deployment) -> str:
    return change("deployment", deployment.pk)


def set_columns(deployment: Deployment, **columns: Any) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(**columns)


def test_the_page_says_what_is_deployed_in_place_of_what_and_where_it_is(admin: Client, baking: Deployment) -> None:
    shown = text_of(admin.get(page_of(baking)))
    assert "shop 42 in place of 41 Watching The new release is watched at this share of the traffic." in shown
    assert "Requested 10 % Effective 10 %" in shown
    assert "Reason the new basket" in shown
    assert "by hand, olga" in shown


@pytest.mark.parametrize("state", sorted(DEPLOYMENT.moves))
def test_there_is_a_page_for_every_state(admin: Client, shop: Service, state: str) -> None:
    deployment = factories.make_deployment(shop, factories.make_release(shop), state=state, resume_to="baking")
    page = admin.get(page_of(deployment))
    assert page.status_code == 200
    live = "every 2s" in page.content.decode()
    assert live == (state not in DEPLOYMENT.terminal_states)


def test_each_stage_says_how_far_it_is_and_only_what_was_seen_counts(admin: Client, baking: Deployment) -> None:
    page = admin.get(page_of(baking))
    first, second = (part(page, rf'<li class="zt-stage[^>]+data-stage="{number}".*?</li>') for number in (0, 1))
    assert first == "10 % Now watched for 5 min 40 % 2 min of 5 min seen, 3 min left"
    assert second == "50 % To come watched for 10 min"
    set_columns(baking, stage_index=1, extensions=2)
    page = admin.get(page_of(baking))
    first, second = (part(page, rf'<li class="zt-stage[^>]+data-stage="{number}".*?</li>') for number in (0, 1))
    assert first == "10 % Done watched for 5 min"
    assert "watched 2 times more: too little data" in second


def test_exposure_that_differs_from_what_is_asked_for_is_marked(admin: Client, baking: Deployment) -> None:
    set_columns(baking, requested_permille=500, effective_permille=100)
    page = admin.get(page_of(baking)).content.decode()
    assert re.search(r'class="zt-differs"><dt>Effective</dt><dd data-effective>10 %', page)
    assert "differs from what is requested" in page
    set_columns(baking, effective_permille=None)
    assert "Requested 50 % Effective not known" in text_of(admin.get(page_of(baking)))


def test_the_verdict_is_a_sentence_with_its_numbers_side_by_side(admin: Client, baking: Deployment) -> None:
    numbers = {
        "e_errors": 312.0,
        "requests_new": 480,
        "requests_old": 4310,
        "error_rate_new": 0.05,
        "error_rate_old": 0.0007,
    }
    set_columns(
        baking,
        verdict={"outcome": "fail", "sentence": "42 failed 24 of 480 requests.", "blame": "errors", "numbers": numbers},
    )
    shown = part(admin.get(page_of(baking)), r'<section class="zt-panel zt-judged".*?</section>')
    assert "Worse than the old release 42 failed 24 of 480 requests." in shown
    assert "Requests 480 4 310" in shown
    assert "Error rate 5.00 % 0.07 %" in shown
    assert "Evidence from errors 312" in shown


def test_the_health_score_has_its_reasons(admin: Client, baking: Deployment) -> None:
    assert "Not asked yet: no new instance is ready." in text_of(admin.get(page_of(baking)))
    set_columns(baking, health={"value": 60, "reasons": ["shop-42-0: database does not answer"]})
    shown = text_of(admin.get(page_of(baking)))
    assert "60 of 100, too low 80 are needed to leave a stage shop-42-0: database does not answer" in shown


def test_instances_of_both_releases_are_listed_with_condition_health_and_restarts(
    admin: Client, shop: Service, baking: Deployment, releases: tuple[Release, Release]
) -> None:
    factories.make_instance(
        shop, releases[1], 1, deployment=baking, stopped_at=clock.now(), failure="exit code 3", restarts=4
    )
    factories.make_instance(shop, releases[1], 2, deployment=baking, health={"document": {"healthy": False}})
    page = admin.get(page_of(baking))
    shown = part(page, r'<table class="zt-table zt-left zt-instances">.*?</table>')
    assert "shop-42-2 42 Ready Not healthy 127.0.0.1:" in shown
    assert "shop-41-1 41 Ready Not asked" in shown
    assert re.search(r"shop-42-1 42 Failed exit code 3 Not asked 127\.0\.0\.1:\d+ 4 ", shown)


def test_the_pipeline_shows_outcomes_and_findings_and_what_is_still_to_come(admin: Client, shop: Service) -> None:
    factories.make_steps(shop)
    deployment = factories.make_deployment(shop, factories.make_release(shop), state="checking")
    factories.make_step_run(deployment, name="Types", findings={"errors": 0, "files": ["a", "b"]}, summary="no issue")
    factories.make_step_run(deployment, 1, name="Tests", outcome="", finished_at=None, exit_code=None, summary="")
    shown = part(admin.get(page_of(deployment)), r'aria-labelledby="zt-steps">.*?</section>')
    assert "Check Types 12 s Log Passed no issue errors 0 files a, b" in shown
    assert re.search(r"Check Tests \d+ (s|min) Log Running", shown)
    assert "Build Wheel To come" in shown


def test_events_and_commands_say_who_and_why(admin: Client, baking: Deployment) -> None:
    request_command(baking, "pause", actor="olga", reason="lunch")
    shown = text_of(admin.get(page_of(baking)))
    assert "Pause was asked for by olga: lunch. It is carried out within seconds." in shown
    assert "Note just now asked to pause: lunch by olga" in shown or "asked to pause: lunch by olga" in shown
    assert "Pause Waits for the next tick lunch by olga" in shown


def test_the_backup_before_it_is_linked(admin: Client, baking: Deployment, tmp_path: Path) -> None:
    record = record_of(files_plan(tmp_path))
    set_columns(baking, backup=record)
    page = admin.get(page_of(baking))
    assert f"Backup taken before it: {record.name} (committed)" in text_of(page)
    assert f'href="/admin/backups/backuprecord/{record.pk}/change/"' in page.content.decode()


def test_a_stopped_line_is_said_on_the_page_of_what_it_stops(admin: Client, baking: Deployment) -> None:
    LineStop(pk=1, stopped=True, reason="the database is moved", changed_by="olga").save()
    assert "The line is stopped. Nothing is deployed" in text_of(admin.get(page_of(baking)))
    set_columns(baking, state="succeeded")
    assert "The line is stopped." not in text_of(admin.get(page_of(baking)))


# --- live ------------------------------------------------------------------------------------------


def test_a_poll_answers_both_parts_and_what_the_buttons_may_be(admin: Client, baking: Deployment) -> None:
    answer = admin.get(f"{HISTORY}{baking.pk}/live/")
    page = answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert 'id="zt-live-rest" class="zt-stack" hx-swap-oob="innerHTML"' in page
    assert 'data-possible="promote promote_fully pause abort roll_back"' in page
    assert 'data-over="no"' in page
    set_columns(baking, state="rolled_back")
    page = admin.get(f"{HISTORY}{baking.pk}/live/").content.decode()
    assert ('data-over="yes"' in page, 'data-possible="retry"' in page) == (True, True)


def test_page_poll_and_points_cost_the_same_queries_however_much_there_is(
    admin: Client, shop: Service, baking: Deployment, releases: tuple[Release, Release],
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:  # fmt: skip
    urls = [
        (page_of(baking), QUERIES_OF_THE_PAGE),
        (f"{HISTORY}{baking.pk}/live/", QUERIES_OF_A_POLL),
        (f"{HISTORY}{baking.pk}/points/", QUERIES_OF_THE_POINTS),
    ]
    admin.get(urls[0][0])
    for url, count in urls:
        with django_assert_num_queries(count):
            admin.get(url)
    for number in range(1, 12):
        factories.make_instance(shop, releases[1], number, deployment=baking)
        factories.make_step_run(baking, number)
        factories.add_event(baking, "noted", actor="olga")
    factories.observe(baking, 300)
    for url, count in urls:
        with django_assert_num_queries(count):
            assert admin.get(url).status_code == 200


@pytest.mark.parametrize("path", ["live/", "points/", "steps/1/log/"])
def test_nobody_without_the_right_follows_a_deployment(
    redis_url: str, baking: Deployment, path: str, client: Client
) -> None:
    from tests.console.people import person, signed_in

    answer = signed_in(person("")).get(f"{HISTORY}{baking.pk}/{path}")
    assert answer.status_code == 403
    assert "shop" not in answer.content.decode()


@pytest.mark.parametrize("path", ["live/", "points/", "steps/1/log/"])
def test_a_deployment_that_is_not_there_is_not_found(admin: Client, path: str) -> None:
    assert admin.get(f"{HISTORY}999/{path}").status_code == 404


# --- the chart -------------------------------------------------------------------------------------


def points(client: Client, deployment: Deployment) -> dict[str, Any]:
    answer = client.get(f"{HISTORY}{deployment.pk}/points/")
    assert answer["Content-Type"] == "application/json"
    found: dict[str, Any] = json.loads(answer.content)
    return found


def test_the_chart_of_nothing_is_empty_lists(admin: Client, baking: Deployment) -> None:
    assert points(admin, baking) == {
        "over": False, "stages": {}, "at": [], "new_errors": [], "old_errors": [], "new_p95": [], "old_p95": [],
        "permille": [], "score": [],
    }  # fmt: skip


def test_a_tick_is_a_point_with_both_releases_errors_and_latency(admin: Client, baking: Deployment) -> None:
    until = clock.now().replace(microsecond=0)
    factories.observe(
        baking, 2, every_seconds=2, until=until, new=Counts(requests=20, errors=1), old=Counts(requests=180, errors=0)
    )
    found = points(admin, baking)
    assert found["at"] == [int((until.timestamp() - 2) * 1000), int((until.timestamp() - 2) * 1000) + 2000]
    assert (found["new_errors"], found["old_errors"]) == ([5.0, 5.0], [0.0, 0.0])
    assert (found["new_p95"], found["old_p95"], found["permille"]) == ([42.0, 42.0], [40.0, 40.0], [100.0, 100.0])
    assert found["stages"] == {"0": 10.0}


def test_what_was_not_counted_is_a_gap_and_no_zero(admin: Client, baking: Deployment) -> None:
    factories.observe(baking, 1, new=None, old=Counts(requests=0), p95_new_ms=None)
    found = points(admin, baking)
    assert (found["new_errors"], found["old_errors"], found["new_p95"]) == ([None], [None], [None])
    assert found["stages"] == {}


def test_half_an_hour_of_ticks_is_drawn_with_few_points_and_no_error_is_lost(admin: Client, baking: Deployment) -> None:
    factories.observe(baking, 850, new=Counts(requests=10, errors=0), old=Counts(requests=90))
    factories.observe(
        baking,
        1,
        until=clock.now() - timedelta(seconds=901),
        new=Counts(requests=10, errors=10),
        old=Counts(requests=90),
    )
    found = points(admin, baking)
    assert len(found["at"]) <= MOST_POINTS
    assert max(found["new_errors"]) > 0
    assert found["at"] == sorted(found["at"])


# --- the log ---------------------------------------------------------------------------------------


def log(client: Client, run: Any, offset: object) -> dict[str, Any]:
    answer = client.get(f"{HISTORY}{run.deployment_id}/steps/{run.pk}/log/?offset={offset}")
    found: dict[str, Any] = json.loads(answer.content)
    return found


def test_the_log_is_read_from_an_offset_and_says_whether_more_will_come(
    admin: Client, baking: Deployment, tmp_path: Path
) -> None:
    run = factories.make_step_run(baking, folder=str(tmp_path), outcome="", finished_at=None)
    assert log(admin, run, 0)["note"] == "It has said nothing yet."
    (tmp_path / "output.log").write_text("eins\nzwölf\n")
    first = log(admin, run, 0)
    assert first == {"text": "eins\nzwölf\n", "offset": 12, "running": True, "skipped": False, "note": ""}
    with (tmp_path / "output.log").open("a") as stream:
        stream.write("drei\n")
    assert (log(admin, run, 12)["text"], log(admin, run, 12)["offset"]) == ("drei\n", 17)
    assert log(admin, run, 17)["text"] == ""
    assert log(admin, run, "x")["offset"] == 17


def test_of_a_long_log_the_page_gets_the_end_and_says_where_the_whole_is(
    admin: Client, baking: Deployment, tmp_path: Path
) -> None:
    (tmp_path / "output.log").write_text("x" * 200_000 + "end")
    run = factories.make_step_run(baking, folder=str(tmp_path))
    found = log(admin, run, 0)
    assert found["text"].endswith("end")
    assert (len(found["text"]), found["skipped"], found["running"]) == (131072, True, False)
    assert "68\u202f931 bytes are left out" in found["note"]


def test_a_log_that_is_gone_is_no_error(admin: Client, baking: Deployment, tmp_path: Path) -> None:
    assert log(admin, factories.make_step_run(baking), 0)["note"] == "Its log is gone."
    run = factories.make_step_run(baking, 1, folder=str(tmp_path / "gone"))
    assert log(admin, run, 0)["note"] == "It said nothing, or its log is gone."


def test_a_step_of_another_deployment_is_not_shown(admin: Client, shop: Service, baking: Deployment) -> None:
    other = factories.make_deployment(shop, factories.make_release(shop, "43"), state="failed")
    run = factories.make_step_run(other)
    assert admin.get(f"{HISTORY}{baking.pk}/steps/{run.pk}/log/").status_code == 404
