"""Services in the admin: a form for each kind of target, stages checked as a whole, steps for administrators alone."""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from deployments.models import DeploymentStage, PipelineStep, Service
from deployments.targets import targets
from tests.console.people import person, signed_in
from tests.deployments import factories

from .pages import SERVICES, change, text_of

pytestmark = pytest.mark.django_db

SECRET = "hunter2-of-the-shop"


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
