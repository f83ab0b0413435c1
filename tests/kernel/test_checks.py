from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.checks import CheckMessage, Error, Warning, run_checks

from controlplane.kernel import checks
from controlplane.kernel.checks import check_error, check_warning, docs_url
from controlplane.setup.check_catalogue import known_checks


def ids(found: Any) -> list[str]:
    return [message.id for message in found]


def test_the_helpers_always_carry_id_hint_and_page() -> None:
    error = check_error("zantara.E999", "It is wrong.", "Mend it.", docs_url("limits", "roles"))
    assert error == Error("It is wrong.", hint="Mend it. (docs/limits.md#roles)", id="zantara.E999")
    warning = check_warning("zantara.W999", "It is odd.", "Look.")
    assert warning == Warning("It is odd.", hint="Look. (docs/checks.md#zantaraw999)", id="zantara.W999")
    assert docs_url("limits") == "docs/limits.md"


def test_our_own_settings_have_nothing_to_report() -> None:
    ours: list[CheckMessage] = [message for message in run_checks() if not message.is_silenced()]
    assert ours == []


def test_the_deployment_checks_are_quiet_behind_https(settings: Any) -> None:
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = True
    settings.SECURE_HSTS_SECONDS = 3600
    found = [message for message in run_checks(include_deployment_checks=True) if not message.is_silenced()]
    assert found == []


def test_a_missing_secret_is_reported(settings: Any) -> None:
    settings.ZANTARA_JWT_SECRET = settings.ZANTARA_LIMITS_SECRET = None
    found = list(checks.check_secrets(None))
    assert ids(found) == ["zantara.E001", "zantara.E001"]
    assert "ZANTARA_JWT_SECRET_FILE" in str(found[0].hint)
    settings.ZANTARA_JWT_PUBLIC_KEY_FILES = ["/keys/issuer.pem"]
    assert [message.msg for message in checks.check_secrets(None)] == ["The secret ZANTARA_LIMITS_SECRET is not set."]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_secret_that_others_can_read_is_reported(settings: Any, tmp_path: Path, mode: int) -> None:
    settings.ZANTARA_DATA_DIR = tmp_path
    (tmp_path / "secrets").mkdir()
    secret = tmp_path / "secrets" / "jwt_secret"
    secret.write_text("x")
    secret.chmod(0o600)
    assert list(checks.check_secrets(None)) == []
    secret.chmod(mode)
    found = list(checks.check_secrets(None))
    assert ids(found) == ["zantara.E002"]
    assert f"`chmod 600 {secret}`" in str(found[0].hint)


def test_a_secret_file_named_by_a_variable_counts_and_a_public_key_does_not(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ZANTARA_DATA_DIR = tmp_path
    for variable in ("ZANTARA_LIMITS_SECRET_FILE", "ZANTARA_JWT_PUBLIC_KEY_FILES"):
        path = tmp_path / variable
        path.write_text("x")
        path.chmod(0o644)
        monkeypatch.setenv(variable, str(path))
    assert [str(path.name) for path in checks.secret_files()] == ["ZANTARA_LIMITS_SECRET_FILE"]
    assert ids(checks.check_secrets(None)) == ["zantara.E002"]


def test_debug_mode_is_for_this_machine_alone(settings: Any) -> None:
    settings.DEBUG, settings.ALLOWED_HOSTS = True, ["127.0.0.1", "localhost"]
    assert list(checks.check_debug_is_local(None)) == []
    settings.ALLOWED_HOSTS = ["127.0.0.1", "ops.example.org"]
    assert ids(checks.check_debug_is_local(None)) == ["zantara.E003"]
    settings.DEBUG = False
    assert list(checks.check_debug_is_local(None)) == []


def test_celery_in_another_zone_in_process_or_impatient_is_reported(settings: Any) -> None:
    assert list(checks.check_celery(None)) == []
    settings.CELERY_TIMEZONE = "Europe/Berlin"
    settings.CELERY_TASK_ALWAYS_EAGER = True
    settings.CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": settings.CELERY_TASK_TIME_LIMIT}
    assert ids(checks.check_celery(None)) == ["zantara.E004", "zantara.E005", "zantara.E006"]


def test_sqlite_without_wal_or_immediate_transactions_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(engine: str, **options: str) -> list[str]:
        databases = {"default": {"ENGINE": f"django.db.backends.{engine}", "NAME": "x", "OPTIONS": options}}
        monkeypatch.setattr(checks, "settings", SimpleNamespace(DATABASES=databases))
        return ids(checks.check_sqlite(None))

    assert found("sqlite3") == ["zantara.E007", "zantara.E008"]
    assert found("sqlite3", transaction_mode="IMMEDIATE", init_command="PRAGMA journal_mode = WAL;") == []
    assert found("postgresql") == []


def test_each_check_of_the_project_has_an_id_a_hint_and_a_page() -> None:
    found = known_checks()
    assert {"zantara.E001", "zantara.E008"} <= {check.id for check in found}
    for check in found:
        assert re.fullmatch(r"zantara\.[EW]\d{3}", check.id), check
        assert check.level == {"E": "error", "W": "warning"}[check.id[8]], check
        assert check.message, check
        assert check.hint, check
        assert check.has_page, check


def test_no_two_checks_share_an_id() -> None:
    owners: dict[str, set[str]] = {}
    for check in known_checks():
        owners.setdefault(check.id, set()).add(check.function)
    assert {name: places for name, places in owners.items() if len(places) > 1} == {}
