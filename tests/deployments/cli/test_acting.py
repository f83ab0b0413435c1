"""Asking: start, steer, roll back, stop the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.cli.sources import kind_of
from deployments.models import Command, Deployment, LineStop, Release, Service
from tests.deployments.factories import make_deployment, make_release, make_service, serve

from .conftest import Call


@pytest.fixture
def shop(db: None) -> Service:
    service = make_service("shop")
    serve(service, make_release(service, "1.0"))
    make_release(service, "2.0")
    return service


def test_a_release_is_asked_for_and_the_command_does_not_wait(call: Call, shop: Service) -> None:
    called = call("shop", "--version", "2.0", "--reason", "new prices")
    deployment = Deployment.objects.get()
    assert (called.code, called.err, called.out) == (0, "", f"{deployment.name} is asked for: shop 2.0\n")
    assert (deployment.state, deployment.trigger, deployment.reason) == ("waiting", "manual", "new prices")
    assert deployment.requested_by.endswith("(command line)")
    assert [stage["permille"] for stage in deployment.stages] == [100, 500, 1000]
    assert not deployment.skips_pipeline


def test_stages_and_pipeline_can_be_left_out(call: Call, shop: Service) -> None:
    called = call("shop", "--version", "2.0", "--at-once", "--skip-pipeline", "--json")
    deployment = Deployment.objects.get()
    assert called.document["stages"] == [{"percent": 100.0, "bake_seconds": 0, "standing": "ahead"}]
    assert (called.document["name"], deployment.skips_pipeline) == (deployment.name, True)


def test_a_new_version_comes_with_its_source(
    call: Call, shop: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("shop", "--version", "3.0", "--source", "./build", "--forward-only").code == 0
    release = Release.objects.get(version="3.0")
    assert (release.source_kind, release.source) == ("directory", str(tmp_path / "build"))
    assert release.forward_only
    assert release.created_by.endswith("(command line)")
    clash = call("shop", "--version", "3.0", "--source", "./other")
    assert (clash.code, clash.err) == (
        2,
        "shop has a release 3.0 with another source. A release is never changed: give the new one another version.\n",
    )  # fmt: skip
    assert Deployment.objects.count() == 1


@pytest.mark.parametrize(
    ("source", "ref", "kind"),
    [
        ("/srv/shop", "", "directory"), ("./shop", "", "directory"), (".", "", "directory"),
        ("~/shop", "", "directory"),
        ("https://git.example.org/shop.git", "", "git"), ("git@git.example.org:shop", "", "git"),
        ("/srv/shop.git", "", "git"), ("/srv/shop", "main", "git"), ("ssh://host/shop", "", "git"),
        ("registry.example.org/shop:2", "", "image"), ("shop@sha256:0123", "", "image"),
    ],
)  # fmt: skip
def test_the_kind_of_a_source_is_guessed_from_its_look(source: str, ref: str, kind: str) -> None:
    assert kind_of(source, ref=ref) == kind


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["shop", "--version", "9"], "shop has no release 9. It has: 2.0, 1.0.\n"),
        (["shop", "--version", "2.0", "--ref", "main"], "That is said of a new release only, and it has no source. "
         "Give its source too.\n"),
        (["shop", "--version", "1.0"], "shop 1.0 already serves everybody. Deploy another release.\n"),
        (["mall", "--version", "1"], "There is no service mall. There are: shop.\n"),
        (["pause", "shop"], "shop was never deployed. Run `manage.py deploy shop --version …`.\n"),
        (["pause", "mall"], "There is no deployment and no service mall. See `manage.py deploy status`.\n"),
        (["rollback", "shop", "--to", "1.0"], "shop was never deployed. Run `manage.py deploy shop --version …`.\n"),
    ],
)  # fmt: skip
def test_what_is_refused_says_what_to_do_and_does_nothing(
    call: Call, shop: Service, words: list[str], error: str
) -> None:
    called = call(*words)
    assert (called.code, called.out, called.err) == (2, "", error)
    assert (Deployment.objects.count(), Command.objects.count()) == (0, 0)


def test_refusals_are_a_document_too(call: Call, shop: Service) -> None:
    called = call("shop", "--version", "9", "--json")
    assert called.document == {"error": "shop has no release 9.", "remedy": "It has: 2.0, 1.0."}


@pytest.mark.parametrize(
    ("word", "state"),
    [("promote", "baking"), ("promote-fully", "baking"), ("pause", "baking"), ("resume", "paused"), ("abort", "baking"),
     ("rollback", "baking"), ("retry", "rollback_blocked")],
)  # fmt: skip
def test_a_deployment_is_steered_by_its_own_name_or_its_services(
    call: Call, shop: Service, word: str, state: str
) -> None:
    deployment = make_deployment(shop, shop.releases.get(version="2.0"), state=state)
    kind = {"rollback": "roll_back"}.get(word, word.replace("-", "_"))
    for name in (deployment.name, "shop"):
        called = call(word, name, "--reason", "because")
        assert (called.code, called.out) == (0, f"{deployment.name} was asked to {kind.replace('_', ' ')}\n")
    commands: Any = Command.objects.values_list("deployment", "kind", "reason")
    assert list(commands) == [(deployment.pk, kind, "because")] * 2


def test_what_makes_no_sense_in_the_state_is_refused(call: Call, shop: Service) -> None:
    deployment = make_deployment(shop, shop.releases.get(version="2.0"), state="baking")
    called = call("resume", "shop")
    assert (called.code, Command.objects.count()) == (2, 0)
    assert called.err.startswith(f"{deployment.name} is baking: it cannot resume. Possible now: promote, ")


def test_retrying_one_that_is_over_asks_for_a_new_one(call: Call, shop: Service) -> None:
    old = make_deployment(shop, shop.releases.get(version="2.0"), state="failed")
    called = call("retry", old.name, "--json")
    new = Deployment.objects.exclude(pk=old.pk).get()
    assert (called.code, called.document["name"]) == (0, new.name)
    assert (new.trigger, new.release.version) == ("retry", "2.0")


def test_rolling_back_to_any_release_goes_at_once_and_without_the_pipeline(call: Call, shop: Service) -> None:
    make_release(shop, "0.9")
    make_deployment(shop, shop.releases.get(version="1.0"), state="succeeded")
    called = call("rollback", "shop", "--to", "0.9")
    new = Deployment.objects.get(trigger="rollback")
    assert (called.code, called.out) == (0, f"{new.name} is asked for: shop back to 0.9\n")
    assert (new.release.version, new.skips_pipeline, len(new.stages)) == ("0.9", True, 1)


def test_the_line_is_stopped_with_a_reason_and_let_run_again(call: Call, shop: Service) -> None:
    called = call("stop-line", "--reason", "the fair")
    assert (called.code, called.out) == (0, "The line is stopped: the fair. Nothing moves but rollbacks.\n")
    assert (LineStop.now().stopped, LineStop.now().reason) == (True, "the fair")
    refused = call("shop", "--version", "2.0")
    assert (refused.code, refused.err) == (2, "The line is stopped: the fair Let it run again first.\n")
    assert call("stop-line", "--reason", " ").code == 2
    assert call("release-line").out == "The line runs again.\n"
    assert call("shop", "--version", "2.0").code == 0
