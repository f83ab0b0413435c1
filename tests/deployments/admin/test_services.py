"""Services in the admin: a form for each kind of target, stages checked as a whole, steps for administrators alone."""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from controlplane.kernel import clock
from deployments.models import DeploymentStage, Instance, PipelineStep, Service
from deployments.targets import targets
from tests.console.people import person, signed_in
from tests.deployments import factories

from .pages import SERVICES, change, part, row_of, text_of

pytestmark = pytest.mark.django_db

SECRET = "hunter2-of-the-shop"
QUERIES_OF_THE_LIST = 9


def typed(**columns: Any) -> dict[str, Any]:
    """A new service as its form sends it: the seed's plan, no step."""
    return {
        "name": "shop", "description": "", "enabled": "on", "environment": "production", "region": "us-east-1",
        "target_kind": "process", "target_process_command": "python3 -m http.server {port}",
        "target_process_host": "127.0.0.1", "target_process_port_range": "20000-29999", "target_process_nice": "0",
        "target_process_stop_signal": "TERM", "target_process_log_mb": "10",
        "instances": "2", "max_surge": "0", "environ": "", "secret_variables": "", "edge_port": "3001",
        "route_prefix": "/", "sticky": "on", "route_hosts": "", "health_path": "/readyz", "document_path": "/health",
        "health_map": "", "min_ready_seconds": "2", "readiness_deadline_seconds": "120",
        "health_check_timeout_seconds": "300", "min_health_score": "80", "gradual_rollout": "on",
        "rollback_enabled": "on", "inconclusive_policy": "hold", "inconclusive_extensions": "3",
        "slow_request_ms": "1000", "error_budget": "100", "busy_policy": "wait", "drain_timeout_seconds": "30",
        "keep_releases": "5", "backup_plan": "", "backup_level": "0",
        **stages((10, 300), (50, 600), (100, 0)), **steps(), **formset("releases", 0), **columns,
    }  # fmt: skip


def formset(prefix: str, count: int, initial: int = 0) -> dict[str, Any]:
    return {
        f"{prefix}-TOTAL_FORMS": count, f"{prefix}-INITIAL_FORMS": initial,
        f"{prefix}-MIN_NUM_FORMS": 0, f"{prefix}-MAX_NUM_FORMS": 1000,
    }  # fmt: skip


def stages(*plan: tuple[Any, Any], rows: list[DeploymentStage] | None = None) -> dict[str, Any]:
    sent = formset("stages", len(plan), len(rows or ()))
    for number, (percentage, seconds) in enumerate(plan):
        sent |= {f"stages-{number}-percentage": percentage, f"stages-{number}-bake_seconds": seconds}
        if rows and number < len(rows):
            sent[f"stages-{number}-id"] = rows[number].pk
    return sent


def steps(*commands: str, **columns: Any) -> dict[str, Any]:
    sent = formset("steps", len(commands))
    for number, command in enumerate(commands):
        row = {
            "name": f"step {number}", "phase": "check", "position": number, "kind": "command", "command": command,
            "working_directory": "", "timeout_seconds": 60, "blocks": "on", "unknown_policy": "block", "enabled": "on",
            **columns,
        }  # fmt: skip
        sent |= {f"steps-{number}-{name}": value for name, value in row.items()}
    return sent


def add(client: Client, **columns: Any) -> Any:
    return client.post(f"{SERVICES}add/", typed(**columns))


def save(client: Client, service: Service, **columns: Any) -> Any:
    rows = list(service.stages.order_by("percentage"))
    plan = stages(*((row.percentage, row.bake_seconds) for row in rows), rows=rows)
    return client.post(change("service", service.pk), typed(**{**plan, **columns}))


def errors_of(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200
    found: dict[str, Any] = answer.context["adminform"].form.errors
    return found


def test_a_service_is_made_with_its_kinds_settings_and_the_seeds_plan(admin: Client) -> None:
    answer = add(
        admin, environ="LANG=C\nDEBUG=0", route_hosts="shop.example\n", health_map="database=redis\nvector_store="
    )
    assert answer.status_code == 302, errors_of(answer)
    service = Service.objects.get()
    settings = targets.get("process").check_settings({"command": "python3 -m http.server {port}"})
    assert service.target_settings == {**settings}
    assert service.environ == {"LANG": "C", "DEBUG": "0"}
    assert service.route_hosts == ["shop.example"]
    assert service.health_map == {"database": "redis", "vector_store": ""}
    assert [(float(stage.percentage), stage.bake_seconds) for stage in service.stages.all()] == [
        (10.0, 300), (50.0, 600), (100.0, 0),
    ]  # fmt: skip


def test_a_new_service_is_offered_the_seeds_plan(admin: Client) -> None:
    page = admin.get(f"{SERVICES}add/").content.decode()
    for number, percentage in enumerate(("10", "50", "100")):
        assert f'name="stages-{number}-percentage" value="{percentage}"' in page


@pytest.mark.parametrize("kind", ["process", "docker"])
def test_every_kind_of_target_has_its_own_fields(admin: Client, kind: str) -> None:
    page = admin.get(f"{SERVICES}add/")
    for name in targets.get(kind).check_settings({"command": "x {port}"} if kind == "process" else {}):
        assert f'name="target_{kind}_{name}"' in page.content.decode(), name
    assert targets.get(kind).label in text_of(page)


@pytest.mark.parametrize(
    ("columns", "field", "said"),
    [
        ({"target_process_command": ""}, "target_process_command", "needs the setting 'command'"),
        ({"target_process_port_range": "x"}, "target_process_port_range", "is no range of ports"),
        ({"target_process_nice": "99"}, "target_process_nice", "must be 0 to 19"),
        ({"target_kind": "floppy"}, "target_kind", "Select a valid choice"),
        ({"name": "My Shop"}, "name", "Small letters"),
        ({"health_path": "readyz"}, "health_path", "begins with a slash"),
        ({"health_check_timeout_seconds": "0"}, "health_check_timeout_seconds", "greater than or equal to 1"),
        ({"environ": "LANG"}, "environ", "Line 1 is not of the form NAME=value."),
        ({"secret_variables": f"A=b\n{SECRET}"}, "secret_variables", "Line 2 is not of the form NAME=value."),
    ],
)
def test_what_makes_no_sense_is_said_at_its_field_and_nothing_is_saved(
    admin: Client, columns: dict[str, str], field: str, said: str
) -> None:
    answer = add(admin, **columns)
    assert said in html.unescape(str(errors_of(answer)[field]))
    assert Service.objects.count() == 0
    assert SECRET not in answer.content.decode()
    assert 'value="3001"' in answer.content.decode()


# --- stages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (((10, 300), (50, 600)), "The last stage is 50 %. End the plan with a stage of 100 %."),
        (((10, 300), (10, 600), (100, 0)), "duplicate"),
        ((), "The plan has no stage. Add one of 100 %."),
        (((10, 8 * 86400), (100, 0)), "The stage of 10 % is watched for 691200 s. Use 0 s to 7 days."),
        (((0, 300), (100, 0)), "greater than or equal to 0.1"),
        (((101, 300),), "less than or equal to 100"),
        (((10, -5), (100, 0)), "greater than or equal to 0"),
    ],
)
def test_a_plan_that_no_rollout_can_follow_is_refused_as_a_whole(
    admin: Client, plan: tuple[tuple[int, int], ...], said: str
) -> None:
    answer = add(admin, **stages(*plan))
    assert answer.status_code == 200
    assert said in text_of(answer)
    assert (Service.objects.count(), DeploymentStage.objects.count()) == (0, 0)


def test_stages_may_be_typed_in_any_order_and_removed(admin: Client) -> None:
    add(admin, **stages((100, 0), (25, 60)))
    service = Service.objects.get()
    assert [stage.percent for stage in service.stage_plan()] == ["25 %", "100 %"]
    rows = list(service.stages.all())
    sent = stages((25, 60), (100, 0), rows=rows) | {"stages-1-DELETE": "on"}
    assert "End the plan with a stage of 100 %." in text_of(save(admin, service, **sent))
    assert service.stages.count() == 2
    sent = stages((25, 60), (100, 0), rows=rows) | {"stages-0-DELETE": "on"}
    assert save(admin, service, **sent).status_code == 302
    assert [stage.percent for stage in service.stage_plan()] == ["100 %"]


# --- steps -----------------------------------------------------------------------------------------


def test_a_step_is_saved_as_it_is_written(admin: Client) -> None:
    assert add(admin, **steps("pytest -q 'tests/a b'")).status_code == 302
    step = PipelineStep.objects.get()
    assert (step.name, step.phase, step.kind, step.command, step.timeout_seconds, step.blocks) == (
        "step 0", "check", "command", "pytest -q 'tests/a b'", 60, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "field"),
    [({"command": ""}, "command"), ({"command": "a 'b"}, "command"), ({"timeout_seconds": 0}, "timeout_seconds"),
     ({"working_directory": "../x"}, "working_directory"), ({"working_directory": "/etc"}, "working_directory")],
)  # fmt: skip
def test_a_step_that_cannot_be_run_is_refused_at_its_field(admin: Client, columns: dict[str, Any], field: str) -> None:
    answer = add(admin, **steps("true", **columns))
    assert answer.status_code == 200
    found = answer.context["inline_admin_formsets"][1].formset.errors
    assert field in found[0]
    assert PipelineStep.objects.count() == 0


def test_who_may_change_services_but_not_steps_sees_them_and_cannot_write_them(redis_url: str) -> None:
    service = factories.make_service()
    factories.make_steps(service)
    user = person("Viewer")
    for codename in ("change_service", "change_deploymentstage", "add_deploymentstage"):
        user.user_permissions.add(Permission.objects.get(codename=codename))
    client = signed_in(user)
    page = client.get(change("service", service.pk))
    assert "mypy ." in text_of(page)
    assert 'name="steps-0-command"' not in page.content.decode()
    first = service.steps.first()
    assert first is not None
    sent = steps("rm -rf /") | {"steps-INITIAL_FORMS": 1, "steps-0-id": first.pk}
    save(client, service, description="changed", **sent)
    service.refresh_from_db()
    assert service.description == "changed"
    assert set(service.steps.values_list("command", flat=True)) == {"mypy .", "pytest -q", "python -m build"}


@pytest.mark.parametrize("group", ["Viewer", "Operator"])
def test_only_administrators_edit_services_steps_and_stages(redis_url: str, group: str) -> None:
    service = factories.make_service()
    factories.make_steps(service)
    client = signed_in(person(group))
    page = client.get(change("service", service.pk))
    assert page.status_code == 200
    assert "command: python3 -m http.server {port}" in text_of(page)
    for field in ("name", "instances", "stages-0-percentage", "steps-0-command", "secret_variables"):
        assert f'name="{field}"' not in page.content.decode(), field
    assert save(client, service, description="x", **steps("evil")).status_code == 403
    assert client.get(f"{SERVICES}add/").status_code == 403
    assert client.post(f"{SERVICES}{service.pk}/delete/", {"post": "yes"}).status_code == 403
    service.refresh_from_db()
    assert (service.description, service.steps.count()) == ("", 3)


# --- secrets ---------------------------------------------------------------------------------------


def test_secret_variables_are_written_encrypted_and_never_shown_again(admin: Client, viewer: Client) -> None:
    add(admin, secret_variables=f"DB_PASSWORD={SECRET}\nTOKEN=abc")
    service = Service.objects.get()
    assert service.secret_environ == {"DB_PASSWORD": SECRET, "TOKEN": "abc"}
    for client in (admin, viewer):
        for path in (
            change("service", service.pk),
            f"{SERVICES}{service.pk}/history/",
            SERVICES,
            f"{SERVICES}{service.pk}/preview/",
        ):
            page = client.get(path)
            assert page.status_code == 200
            assert SECRET not in page.content.decode(), path
    assert "Set: DB_PASSWORD, TOKEN." in text_of(admin.get(change("service", service.pk)))
    assert "2 variables set: DB_PASSWORD, TOKEN" in text_of(viewer.get(change("service", service.pk)))
    for row in Service.objects.raw("SELECT id, secret_environ AS stored FROM deployments_service"):
        assert SECRET not in row.stored  # type: ignore[attr-defined]


def test_an_empty_field_keeps_the_secrets_a_line_replaces_one_and_an_empty_value_forgets_one(admin: Client) -> None:
    service = factories.make_service(secret_environ={"A": "1", "B": "2"})
    assert save(admin, service, description="x").status_code == 302
    service.refresh_from_db()
    assert service.secret_environ == {"A": "1", "B": "2"}
    save(admin, service, secret_variables="A=new\nB=\nC=3")
    service.refresh_from_db()
    assert service.secret_environ == {"A": "new", "C": "3"}


def test_a_refused_form_does_not_send_the_secret_back(admin: Client) -> None:
    answer = add(admin, name="No Name", secret_variables=f"A={SECRET}")
    assert "name" in errors_of(answer)
    assert SECRET not in answer.content.decode()


def test_the_name_stays_once_there_is_a_release(admin: Client) -> None:
    service = factories.make_service()
    factories.make_release(service)
    save(admin, service, name="other", description="new")
    service.refresh_from_db()
    assert (service.name, service.description) == ("shop", "new")


def test_a_change_is_in_the_history_with_who_made_it(admin: Client) -> None:
    service = factories.make_service()
    save(admin, service, instances="5")
    shown = text_of(admin.get(f"{SERVICES}{service.pk}/history/"))
    assert "Instances 2 → 5" in shown
    assert "root changed it" in shown


# --- the list and the page -------------------------------------------------------------------------


def test_the_list_says_what_serves_how_many_are_healthy_and_what_goes_on(viewer: Client) -> None:
    shop = factories.make_service("shop", instances=2)
    old, new = factories.make_release(shop, "41"), factories.make_release(shop, "42")
    factories.make_deployment(shop, old, state="succeeded")
    factories.serve(shop, old, count=2)
    Instance.objects.filter(slot=1).update(ready_since=None)
    shop.state.refresh_from_db()
    shop.state.split = {"41": 900, "42": 100}
    shop.state.save()
    factories.make_deployment(shop, new)
    blog = factories.make_service("blog", instances=1)
    factories.serve(blog, factories.make_release(blog, "7"))
    factories.make_service("new", instances=1, enabled=False)
    page = viewer.get(SERVICES)
    assert "41 90 % 42 10 % 1 of 2 Watching 42 4 min ago Succeeded 41" in row_of(page, "shop")
    assert "7 1 of 1 Steady none yet" in row_of(page, "blog")
    assert "nothing yet 0 of 1 Off none yet" in row_of(page, "new")


def test_the_list_costs_the_same_queries_for_one_service_and_for_ten(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    def one(name: str) -> None:
        service = factories.make_service(name)
        release = factories.make_release(service)
        factories.serve(service, release)
        factories.make_deployment(service, release, state="succeeded")
        factories.make_deployment(service, factories.make_release(service, "2"))

    one("shop")
    admin.get(SERVICES)
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        admin.get(SERVICES)
    for number in range(9):
        one(f"more-{number}")
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        assert admin.get(SERVICES).status_code == 200


def test_the_page_shows_living_instances_with_their_logs_and_the_last_deployments(viewer: Client) -> None:
    shop = factories.make_service()
    release = factories.make_release(shop, "41")
    factories.serve(shop, release)
    factories.make_instance(shop, release, 7, stopped_at=clock.now())
    factories.make_deployment(shop, release, state="succeeded")
    page = viewer.get(change("service", shop.pk))
    table = part(page, r'<table class="zt-table zt-left zt-instances">.*?</table>')
    assert ("shop-41-0 41 Ready" in table, "shop-41-7" in table) == (True, False)
    assert "Instances healthy 2 of 2" in text_of(page)
    first = Instance.objects.get(slot=0)
    assert f'href="{SERVICES}{shop.pk}/instances/{first.pk}/log/"' in page.content.decode()


def test_a_log_is_shown_masked_by_its_target_or_why_there_is_none(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = factories.make_service()
    (instance, _) = factories.serve(shop, factories.make_release(shop, "41"))
    url = f"{SERVICES}{shop.pk}/instances/{instance.pk}/log/"
    assert "Nothing to show. It has said nothing yet, or its log is gone." in text_of(viewer.get(url))
    asked = []

    def tail(seen: Any, settings: Any, **_: Any) -> str:
        asked.append((seen.name, seen.release, seen.slot, seen.handle, settings))
        return "ready <to> serve\n"

    monkeypatch.setattr(targets.get("process"), "log_tail", tail, raising=False)
    page = viewer.get(url)
    assert "ready &lt;to&gt; serve" in page.content.decode()
    assert asked == [("shop-41-0", "41", 0, {"pid": 4000, "started": 1}, shop.target_settings)]
    assert viewer.get(f"{SERVICES}999/instances/{instance.pk}/log/").status_code == 404
    assert signed_in(person("")).get(url).status_code == 403


def test_a_target_that_does_not_answer_is_said_where_the_log_would_be(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.errors import TargetUnavailable

    def away(*_: Any, **__: Any) -> str:
        raise TargetUnavailable("The engine does not answer.", remedy="Start it.")

    shop = factories.make_service()
    (instance, _) = factories.serve(shop, factories.make_release(shop, "41"))
    monkeypatch.setattr(targets.get("process"), "log_tail", away, raising=False)
    shown = text_of(viewer.get(f"{SERVICES}{shop.pk}/instances/{instance.pk}/log/"))
    assert "The engine does not answer. Start it." in shown


def test_an_empty_list_says_what_a_service_is(admin: Client) -> None:
    assert "A service is a thing that is deployed" in text_of(admin.get(SERVICES))


# --- what would happen -----------------------------------------------------------------------------


def test_the_preview_shows_exposure_capacity_steps_backup_and_the_way_back(viewer: Client) -> None:
    shop = factories.make_service(instances=3)
    factories.make_steps(shop)
    old = factories.make_release(shop, "41")
    factories.make_release(shop, "42")
    factories.serve(shop, old)
    shown = text_of(viewer.get(f"{SERVICES}{shop.pk}/preview/"))
    assert "42 would take the place of 41." in shown
    assert "10 % 10 % 5 min 1 3 One more instance than the share needs" in shown
    assert "50 % 50 % 10 min 2 3" in shown
    assert "100 % 100 % not watched 3 3" in shown
    assert "It takes 15 min at least, pipeline and backup aside. At most 6 instances" in shown
    assert "Check Types stops the deployment, at most 10 min mypy ." in shown
    assert "If it is bad, everybody is back on 41 within seconds" in shown
    assert "Nothing speaks against asking for it now." in shown


def test_the_preview_says_what_stands_in_the_way(viewer: Client) -> None:
    from deployments.models import LineStop

    shop = factories.make_service(stages=(), edge_port=None, instances=1)
    release = factories.make_release(shop, "41", forward_only=True)
    factories.serve(shop, release)
    LineStop(pk=1, stopped=True, reason="freeze").save()
    active = factories.make_deployment(shop, factories.make_release(shop, "42"))
    shown = text_of(viewer.get(f"{SERVICES}{shop.pk}/preview/?release={release.pk}"))
    assert "It would be refused: the line is stopped (freeze)." in shown
    assert "It would be refused: 41 serves everybody already." in shown
    assert "It would be refused: The plan has no stage. Add one of 100 %." in shown
    assert f"It would wait for {active.name}, which is active." in shown
    assert "Without an edge nothing divides the traffic: it gets all at once." in shown
    assert "The release is forward-only: a bad one is held as ROLLBACK_BLOCKED" in shown


def test_the_preview_of_a_service_without_releases_and_of_none(viewer: Client, admin: Client) -> None:
    shop = factories.make_service()
    assert "There is no release yet that could have the rest" in text_of(viewer.get(f"{SERVICES}{shop.pk}/preview/"))
    assert admin.get(f"{SERVICES}999/preview/").status_code == 404
    assert signed_in(person("")).get(f"{SERVICES}{shop.pk}/preview/").status_code == 403
