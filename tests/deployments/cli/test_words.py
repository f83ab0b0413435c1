"""How the words are read, and what the exit codes are said to mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.core.management import CommandError

from deployments.cli import exits
from deployments.cli.words import WORDS, understood
from deployments.machines import DEPLOYMENT
from deployments.models import Deployment
from tests.deployments.factories import make_release, make_service

from .conftest import Call

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("shop --version 2", "start shop --version 2"),
        ("--version 2 shop", "start --version 2 shop"),
        ("start shop --version 2", "start shop --version 2"),
        ("start start --version 2", "start start --version 2"),
        ("-v 2 --settings x --traceback shop --version 2", "-v 2 --settings x --traceback start shop --version 2"),
        ("--settings=x status", "--settings=x status"),
        ("status", "status"),
        ("status shop", "status shop"),
        ("plan shop --version 2", "plan shop --version 2"),
        ("status --version 2", "start status --version 2"),
        ("abort --version=2 --wait", "start abort --version=2 --wait"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_the_word_start_may_be_left_out(given: str, read: str) -> None:
    assert understood(given.split()) == read.split()


def test_a_service_that_is_named_like_a_word_can_be_deployed(db: None, call: Call) -> None:
    for name in ("status", "plan", "start"):
        make_release(make_service(name), "2")
    assert call("status", "--version", "2").code == 0
    assert call("start", "plan", "--version", "2").code == 0
    assert call("start", "start", "--version", "2").code == 0
    assert sorted(Deployment.objects.values_list("service__name", flat=True)) == ["plan", "start", "status"]


def test_wrong_use_is_told_and_does_nothing(db: None, call: Call) -> None:
    make_release(make_service("shop"), "2")
    for wrong in (["shop"], ["abort"], ["shop", "--version", "2", "--source-kind", "tarball"], ["stop-line"]):
        with pytest.raises(CommandError):
            call(*wrong)
    refused = call("shop", "--version", "2", "--timeout", "5")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "--timeout says how long --wait may take. Add --wait, or leave it out.\n"
    assert Deployment.objects.count() == 0


def test_each_state_that_ends_the_waiting_has_an_exit_code_of_its_own() -> None:
    ends = {state for state in DEPLOYMENT.moves if exits.ends_waiting(Deployment(state=state))}
    assert ends == {*DEPLOYMENT.terminal_states, "paused", "rollback_blocked"}
    codes = {state: exits.code_of(Deployment(state=state)) for state in ends}
    assert codes == {
        "succeeded": 0, "failed": 1, "rolled_back": 3, "aborted": 4, "paused": 5, "rollback_blocked": 6,
    }  # fmt: skip


def test_the_documented_codes_and_words_are_those_that_there_are() -> None:
    page = (ROOT / "docs" / "deploy-command.md").read_text()
    codes = {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)}
    assert codes == dict(exits.MEANINGS)
    assert re.findall(r"^\| `([a-z-]+)[^`]*` \|", page, re.MULTILINE) == list(WORDS)
