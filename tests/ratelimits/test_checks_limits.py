from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from django.core import checks

from ratelimits.checks import AUTHENTICATION, IDENTITY, LIMITS

LOCMEM = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


def found() -> dict[str, checks.CheckMessage]:
    messages = checks.run_checks(tags=["zantara"])
    return {str(m.id): m for m in messages if str(m.id)[8:10] in ("E1", "W1")}


def test_the_control_plane_as_it_is_has_no_finding() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([IDENTITY, AUTHENTICATION, LIMITS], set()),
        ([IDENTITY, LIMITS], set()),
        ([AUTHENTICATION], {"zantara.W101"}),
        ([AUTHENTICATION, LIMITS], {"zantara.E101"}),
        ([LIMITS, IDENTITY], {"zantara.E102"}),
        ([IDENTITY, LIMITS, AUTHENTICATION], {"zantara.W102"}),
        ([LIMITS, IDENTITY, AUTHENTICATION], {"zantara.E102", "zantara.W102"}),
    ],
)
def test_the_order_of_the_middleware_is_looked_at(settings: Any, order: list[str], expected: set[str]) -> None:
    settings.MIDDLEWARE = order
    assert set(found()) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ZANTARA_REDIS_URL": ""}, {"zantara.E103"}),
        ({"ZANTARA_LIMITS_SECRET": "short"}, {"zantara.E106"}),
        ({"ZANTARA_LIMITS_SECRET": None}, set()),  # zantara.E001 says it
        ({"ZANTARA_RATELIMIT_HEADERS": ["draft-99"]}, {"zantara.E105"}),
        ({"ZANTARA_LIMITS_UNLIMITED_PATHS": ["livez"]}, {"zantara.E107"}),
        ({"ZANTARA_LIMITS_UNLIMITED_PATHS": ["/"]}, {"zantara.W103"}),
        ({"ZANTARA_LIMITS_UNLIMITED_PATHS": ["/livez", "/livez"]}, {"zantara.W104"}),
        ({"CACHES": LOCMEM}, {"zantara.E108"}),
        ({"RATELIMIT_USE_CACHE": "other"}, {"zantara.E108"}),
        ({"ZANTARA_LOGIN_RATE": "5/year"}, {"zantara.E109"}),
    ],
)
def test_a_setting_that_would_limit_nobody_is_found(settings: Any, changes: dict[str, Any], expected: set[str]) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    assert set(found()) == expected


def test_each_finding_has_a_hint_and_its_line_in_the_docs(settings: Any) -> None:
    settings.MIDDLEWARE, settings.CACHES, settings.ZANTARA_LOGIN_RATE = [LIMITS, IDENTITY], LOCMEM, "x"
    messages = found()
    assert set(messages) == {"zantara.E102", "zantara.E108", "zantara.E109"}
    for check_id, message in messages.items():
        assert f"docs/checks.md#{check_id.replace('.', '').lower()}" in str(message.hint)


def test_the_checks_work_in_a_foreign_project_that_has_only_the_guard(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        from django.conf import settings
        settings.configure(
            SECRET_KEY="x" * 50, INSTALLED_APPS=["ratelimits.guard"], ROOT_URLCONF="nowhere",
            MIDDLEWARE=["{LIMITS}"], ZANTARA_REDIS_URL="unix:///nowhere", CACHES={LOCMEM!r},
        )
        import django
        django.setup()
        import sys
        from django.core import checks
        print(sorted(m.id for m in checks.run_checks(tags=["zantara"]) if m.id[8:10] in ("E1", "W1")))
        print([name for name in sys.modules if name in ("ratelimits.models", "controlplane.settings", "unfold")])
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert run.stdout.splitlines() == ["['zantara.E101', 'zantara.E104']", "[]"], run.stderr
