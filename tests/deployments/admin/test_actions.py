"""Acts on deployments, services and the line: each with its permission, its dialog and its reason."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from deployments.engine.requests import possible_commands
from deployments.machines import DEPLOYMENT
from deployments.models import Command, Deployment, LineStop, Release, Service
from tests.console.people import person, signed_in
from tests.deployments import factories

from .pages import HISTORY, SERVICES, change, messages_of, press, text_of

pytestmark = pytest.mark.django_db

OPERATORS = frozenset({"Operator", "Administrator"})
#: Every act: on which model it is pressed, in which state the deployment is.
ACTS: dict[str, tuple[str, str]] = {
    "promote": ("deployment", "baking"),
    "promote_fully": ("deployment", "baking"),
    "pause": ("deployment", "baking"),
    "resume": ("deployment", "paused"),
    "abort": ("deployment", "baking"),
    "retry": ("deployment", "failed"),
    "roll_back": ("deployment", "baking"),
    "back_to": ("release", "succeeded"),
    "deploy_this": ("release", "failed"),
    "deploy": ("service", "failed"),
    "stop_the_line": ("service", "baking"),
}


@pytest.fixture
def shop() -> Service:
    return factories.make_service()


def deployment_in(shop: Service, state: str) -> Deployment:
    old, new = factories.make_release(shop, "41"), factories.make_release(shop, "42")
    factories.serve(shop, old)
    columns = {"resume_to": "baking"} if state == "paused" else {}
    return factories.make_deployment(shop, new, state=state, from_release=old, **columns)


def snapshot() -> list[Any]:
    """Everything that an act could have changed."""
    return [
        list(Command.objects.values_list("kind", "actor")),
        list(Deployment.objects.order_by("pk").values_list("pk", "state")),
        list(LineStop.objects.values_list("stopped")),
        Release.objects.count(),
    ]


def press_act(client: Client, act: str, row: Deployment, **typed: Any) -> Any:
    model = ACTS[act][0]
    pk = {"deployment": row.pk, "release": row.release_id, "service": row.service_id}[model]
    given = {"release": row.release_id, "source_kind": "git"} if act == "deploy" else {}
    return press(client, act, None if act == "stop_the_line" else pk, model=model, **given, **typed)


@pytest.mark.parametrize("group", ["", "Viewer", "Operator", "Administrator"])
@pytest.mark.parametrize("act", ACTS)
def test_each_act_is_for_those_who_may_and_for_nobody_else(redis_url: str, shop: Service, act: str, group: str) -> None:
    row = deployment_in(shop, ACTS[act][1])
    client = signed_in(person(group))
    before = snapshot()
    answer = press_act(client, act, row, reason="because")
    if group in OPERATORS:
        assert answer.status_code == 200
        assert "HX-Redirect" in answer or "HX-Refresh" in answer
        assert snapshot() != before, messages_of(client) if group == "Administrator" else ""
    else:
        assert answer.status_code == 403
        assert snapshot() == before


@pytest.mark.parametrize("verb", ["promote", "promote_fully", "pause", "abort", "roll_back"])
def test_each_verb_is_a_permission_of_its_own(redis_url: str, shop: Service, verb: str) -> None:
    from django.contrib.auth.models import Permission

    row = deployment_in(shop, "baking")
    user = person("Viewer")
    user.user_permissions.add(Permission.objects.get(codename=f"{verb}_deployment"))
    client = signed_in(user)
    shown = client.get(change("deployment", row.pk)).context["actions_detail"]
    assert [one["path"].split("/")[-2].replace("-", "_") for one in shown] == [verb]
    for other in ("promote", "promote_fully", "pause", "abort", "roll_back"):
        assert (press(client, other, row.pk, reason="r").status_code == 403) == (other != verb)
    assert [command.kind for command in Command.objects.all()] == [verb]


@pytest.mark.parametrize("state", sorted(DEPLOYMENT.moves))
def test_the_page_shows_exactly_the_buttons_that_are_possible(admin: Client, shop: Service, state: str) -> None:
    row = deployment_in(shop, state)
    shown = admin.get(change("deployment", row.pk)).context["actions_detail"]
    names = {one["path"].split("/")[-2].replace("-", "_") for one in shown}
    assert names - {"back_to"} == set(possible_commands(row))
    assert ("back_to" in names) == (state == "succeeded")


def test_a_command_is_written_with_the_person_and_his_reason_and_noted(operator: Client, shop: Service) -> None:
    row = deployment_in(shop, "baking")
    answer = press(operator, "pause", row.pk, reason="lunch")
    assert answer["HX-Refresh"] == "true"
    command = Command.objects.get()
    assert (command.kind, command.actor, command.reason, command.applied_at) == ("pause", "a-operator", "lunch", None)
    event = row.events.order_by("pk").last()
    assert event is not None
    assert (event.actor, event.reason, event.from_state, event.to_state) == (
        "a-operator", "asked to pause: lunch", "baking", "baking",
    )  # fmt: skip
    assert messages_of(operator) == [f"{row.name} was asked to pause; it does so within seconds."]


@pytest.mark.parametrize("verb", ["promote_fully", "abort", "roll_back"])
def test_what_takes_something_away_needs_a_reason(operator: Client, shop: Service, verb: str) -> None:
    row = deployment_in(shop, "baking")
    answer = press(operator, verb, row.pk, reason="  ")
    assert "This field is required." in text_of(answer)
    assert "HX-Refresh" not in answer
    assert Command.objects.count() == 0


@pytest.mark.parametrize("verb", ["promote", "pause", "abort", "promote-fully", "roll-back"])
def test_opening_a_dialog_does_nothing(admin: Client, shop: Service, verb: str) -> None:
    row = deployment_in(shop, "baking")
    before = snapshot()
    assert admin.get(f"{HISTORY}{row.pk}/{verb}/").status_code == 200
    assert snapshot() == before


def test_an_act_that_came_too_late_says_what_is_possible(operator: Client, shop: Service) -> None:
    row = deployment_in(shop, "succeeded")
    press(operator, "promote", row.pk, reason="")
    assert Command.objects.count() == 0
    assert messages_of(operator) == [f"{row.name} is succeeded: it cannot promote. Possible now: roll_back."]


def test_retrying_one_that_is_over_leads_to_the_new_deployment(operator: Client, shop: Service) -> None:
    row = deployment_in(shop, "failed")
    answer = press(operator, "retry", row.pk, reason="the network is back")
    made = Deployment.objects.latest("pk")
    assert answer["HX-Redirect"] == change("deployment", made.pk)
    assert (made.release, made.trigger, made.requested_by) == (row.release, "retry", "a-operator")


def test_an_act_on_a_row_that_is_gone_is_a_message(admin: Client) -> None:
    press(admin, "pause", 999, reason="")
    assert messages_of(admin) == ["This row is gone. Load the list again."]


# --- deploying -------------------------------------------------------------------------------------


def test_deploying_a_release_that_is_there_leads_to_its_page(operator: Client, shop: Service) -> None:
    release = factories.make_release(shop, "41")
    answer = press(operator, "deploy", shop.pk, model="service", release=release.pk, source_kind="git", reason="new")
    made = Deployment.objects.get()
    assert answer["HX-Redirect"] == change("deployment", made.pk)
    assert (made.release, made.trigger, made.requested_by, made.reason, made.state) == (
        release, "manual", "a-operator", "new", "waiting",
    )  # fmt: skip
    assert [stage["permille"] for stage in made.stages] == [100, 500, 1000]


def test_deploying_a_new_release_makes_it(operator: Client, shop: Service) -> None:
    press(
        operator, "deploy", shop.pk, model="service", version="43", source_kind="git",
        source="https://git.example/shop.git", ref="v43", forward_only="on", reason="",
    )  # fmt: skip
    release = Release.objects.get()
    assert (release.version, release.source_kind, release.ref, release.forward_only, release.created_by) == (
        "43", "git", "v43", True, "a-operator",
    )  # fmt: skip
    assert Deployment.objects.get().release == release


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"version": "", "source": "/srv/x"}, "Say which version it is."),
        ({"version": "43", "source": ""}, "Say where it is."),
        ({"version": "4 3", "source": "/srv/x"}, "That is no release: Letters, digits"),
        ({"version": "41", "source": "/srv/other"}, "shop has a release 41 with another source."),
        ({"version": "44", "source": "/srv/x", "ref": "main"}, "Only a git repository has a ref."),
    ],
)
def test_what_is_refused_keeps_the_form_with_what_was_typed(
    operator: Client, shop: Service, typed: dict[str, str], said: str
) -> None:
    factories.make_release(shop, "41")
    answer = press(operator, "deploy", shop.pk, model="service", source_kind="directory", reason="mine", **typed)
    page = answer.content.decode()
    assert said in text_of(answer)
    assert 'id="dialog-form"' in page
    assert ">mine</textarea>" in page.replace("\n", "")
    assert "HX-Redirect" not in answer
    assert (Deployment.objects.count(), Release.objects.count()) == (0, 1)


def test_a_release_of_another_service_is_not_offered(operator: Client, shop: Service) -> None:
    foreign = factories.make_release(factories.make_service("blog"), "9")
    answer = press(operator, "deploy", shop.pk, model="service", release=foreign.pk, source_kind="git", reason="")
    assert "Select a valid choice." in text_of(answer)
    assert Deployment.objects.count() == 0


def test_a_release_that_serves_everybody_is_refused_in_the_dialog(operator: Client, shop: Service) -> None:
    release = factories.make_release(shop, "41")
    factories.serve(shop, release)
    answer = press(operator, "deploy", shop.pk, model="service", release=release.pk, source_kind="git", reason="again")
    assert "shop 41 already serves everybody. Deploy another release." in text_of(answer)
    assert Deployment.objects.count() == 0


# --- the line --------------------------------------------------------------------------------------


def test_the_line_is_stopped_with_a_reason_shown_on_the_lists_and_let_run_again(
    operator: Client, viewer: Client, shop: Service
) -> None:
    assert "This field is required." in text_of(press(operator, "stop_the_line", model="service", reason=" "))
    assert not LineStop.now().stopped
    press(operator, "stop_the_line", model="service", reason="the database is moved")
    line = LineStop.now()
    assert (line.stopped, line.reason, line.changed_by) == (True, "the database is moved", "a-operator")
    for page in (SERVICES, HISTORY, change("service", shop.pk)):
        assert "The line is stopped. Nothing is deployed" in text_of(viewer.get(page)), page
        assert "the database is moved" in text_of(viewer.get(page)), page
    titles = [one["title"] for one in operator.get(HISTORY).context["actions_list"]]
    assert titles == ["Let it run"]
    assert viewer.get(HISTORY).context["actions_list"] == []
    press(operator, "let_it_run", model="deployment", reason="")
    assert not LineStop.now().stopped
    assert [one["title"] for one in operator.get(SERVICES).context["actions_list"]] == ["Stop the line"]
    assert "The line is stopped." not in text_of(viewer.get(SERVICES))


def test_a_stopped_line_lets_nothing_be_asked_for_but_the_way_back(operator: Client, shop: Service) -> None:
    release = factories.make_release(shop, "40")
    factories.make_deployment(shop, release, state="succeeded")
    LineStop(pk=1, stopped=True, reason="freeze").save()
    answer = press(operator, "deploy", shop.pk, model="service", release=release.pk, source_kind="git", reason="")
    assert "The line is stopped: freeze Let it run again first." in text_of(answer)
    assert Deployment.objects.count() == 1
    press(operator, "back_to", release.pk, model="release", reason="bad data")
    assert Deployment.objects.latest("pk").trigger == "rollback"
