from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from controlplane.kernel.logs import (
    MASK,
    RoutineFilter,
    build_formatter,
    is_secret_key,
    logging_config,
    redact,
    redact_text,
)

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.Zm9yZ2VkLXNpZ25hdHVyZQ"


@dataclass
class Lines:
    stream: io.StringIO
    logger: logging.Logger
    bound: Any

    def text(self) -> str:
        return self.stream.getvalue()

    def last(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.text().splitlines()[-1])
        return line


@pytest.fixture(params=["json"])
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    """A logger of our own whose lines we can read."""
    logger = logging.getLogger(f"tests.logs.{request.param}")
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(build_formatter(request.param, colours=False))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel("DEBUG")
    structlog.contextvars.clear_contextvars()
    yield Lines(handler.stream, logger, structlog.get_logger(logger.name))
    structlog.contextvars.clear_contextvars()
    logger.handlers = []


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"token was {JWT}, sorry", "token was ***, sorry"),
        (f"Authorization: Bearer {JWT}", "Authorization: Bearer ***"),
        ("sent bearer abc.def-123==", "sent bearer ***"),
        ("{'Authorization': 'Basic YWxpY2U6c2VjcmV0'}", "{'Authorization': 'Basic ***'}"),
        ("redis://:hunter2@cache:6379/0 refused", "redis://:***@cache:6379/0 refused"),
        ("postgres://zt:p@ss:word@db/zt", "postgres://zt:***@db/zt"),
        ("https://ghp_0123456789@git.example/x", "https://***@git.example/x"),
        ("GET /x?token=abc123&page=2", "GET /x?token=***&page=2"),
        ("password=hunter2; user=alice", "password=***; user=alice"),
        ("Settings(api_key='k-1', size=3)", "Settings(api_key='***', size=3)"),
        ('{"refresh_token": "abc", "n": 1}', '{"refresh_token": "***", "n": 1}'),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY----- tail", "*** tail"),
        ("AGE-SECRET-KEY-1QQPZRY9X8GF", "***"),
    ],
)
def test_secrets_inside_a_text_are_masked(text: str, masked: str) -> None:
    assert redact_text(text) == masked
    assert redact_text(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "GET /zantara.unified?page=2 from alice@example.org at 10:15",
        'Bearer error="invalid_token"',
        "unix:///var/run/redis.sock?db=0 and redis://cache:6379/0 and postgres://zantara@/zantara",
        "key: value, ratio=0.5",
        "",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert redact_text(text) == text


def test_names_say_what_is_secret() -> None:
    for name in (
        "password", "ZANTARA_ADMIN_PASSWORD", "access_token", "Authorization", "Set-Cookie", "jwt_secret", "apiKey",
        "secret_key", "private_key", "csrfmiddlewaretoken", "key_material", "client-secret",
    ):  # fmt: skip
        assert is_secret_key(name), name
    for name in (
        "key", "key_hash", "token_id", "lease_token", "fencing_token", "user", "secret_file", "ZANTARA_JWT_SECRET_FILE",
        "token_expires_at", "tokens_count", "monkey", "path",
    ):  # fmt: skip
        assert not is_secret_key(name), name


def test_a_structure_is_masked_at_any_depth_and_never_changed() -> None:
    value = {
        "user": "alice", "nested": [{"password": "x", "deeper": ({"Cookie": "sessionid=1"},)}],
        "token": None, "has_password": True, "lease_token": 7, "raw": b"Bearer abc", "error": ValueError(f"bad {JWT}"),
        5: {1.5},
    }  # fmt: skip
    assert redact(value) == {
        "user": "alice", "nested": [{"password": MASK, "deeper": [{"Cookie": MASK}]}],
        "token": None, "has_password": True, "lease_token": 7, "raw": "Bearer ***", "error": "ValueError: bad ***",
        "5": [1.5],
    }  # fmt: skip
    assert value["nested"][0]["password"] == "x"  # type: ignore[index]


def test_what_contains_itself_or_cannot_be_printed_does_not_stop_a_line() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    loop: list[Any] = []
    loop.append(loop)
    assert "…" in json.dumps(redact(loop), ensure_ascii=False)
    assert redact(Unprintable()) == "<Unprintable>"


def test_a_json_line_carries_time_level_logger_ids_and_no_secret(lines: Lines) -> None:
    structlog.contextvars.bind_contextvars(request_id="r-1", task_id="t-1")
    lines.bound.info("backup_committed", size_bytes=5, password="hunter2", url="redis://:pw@h/0")
    line = lines.last()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "backup_committed", "level": "info", "logger": "tests.logs.json", "request_id": "r-1",
        "task_id": "t-1", "size_bytes": 5, "password": MASK, "url": "redis://:***@h/0",
    }  # fmt: skip


def test_lines_of_the_standard_library_get_the_same_treatment(lines: Lines) -> None:
    structlog.contextvars.bind_contextvars(request_id="r-1")
    lines.logger.warning("refused %s for %s", f"Bearer {JWT}", "alice", extra={"cookie": "sessionid=1"})
    line = lines.last()
    assert (line["event"], line["cookie"], line["request_id"], line["level"]) == (
        "refused Bearer *** for alice", MASK, "r-1", "warning",
    )  # fmt: skip


@pytest.mark.parametrize("through", ["structlog", "stdlib"])
def test_a_traceback_is_there_and_its_secrets_are_not(lines: Lines, through: str) -> None:
    try:
        raise ConnectionError("redis://:hunter2@cache:6379 said no to password=hunter2")
    except ConnectionError:
        (lines.bound if through == "structlog" else lines.logger).exception("publish_failed")
    assert "hunter2" not in lines.text()
    assert "ConnectionError: redis://:***@cache:6379 said no to password=***" in lines.last()["exception"]
    assert "Traceback (most recent call last)" in lines.last()["exception"]


@pytest.mark.parametrize("lines", ["console"], indirect=True)
def test_on_the_console_a_callers_text_cannot_forge_a_line(lines: Lines) -> None:
    lines.bound.info("request_refused", agent="x\n2031-01-01 [info] login_succeeded\x1b[2J")
    lines.logger.info("Not Found: %s", "/x\r\nfake")
    assert lines.text().count("\n") == 2
    assert r"agent='x\n2031-01-01 [info] login_succeeded\x1b[2J'" in lines.text()
    assert "/x\\r\\nfake" in lines.text()


@pytest.mark.parametrize("lines", ["console"], indirect=True)
def test_on_the_console_a_traceback_keeps_its_lines(lines: Lines) -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        lines.bound.exception("sum_failed")
    assert "Traceback (most recent call last):\n" in lines.text()
    assert "\x1b" not in lines.text()


def test_below_its_level_nothing_is_formatted(lines: Lines) -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    lines.logger.setLevel("WARNING")
    lines.bound.info("looked", at=Costly())
    assert lines.text() == ""


def test_the_configuration_is_plain_data_for_a_servers_file() -> None:
    config = logging_config("json", "INFO")
    assert json.loads(json.dumps(config)) == config
    assert config["root"] == {"handlers": ["stderr"], "level": "INFO"}
    for name in ("_granian", "granian.access", "django.server", "django", "celery"):
        assert config["loggers"][name] == {"handlers": [], "propagate": True, "level": "NOTSET"}


def test_a_line_costs_well_under_a_millisecond(lines: Lines) -> None:
    best = 1.0
    for _ in range(5):
        begun = time.thread_time()
        for _ in range(200):
            lines.bound.info("request_finished", code=200, request="GET /zantara.unified?page=2", user_agent="curl/8")
        best = min(best, (time.thread_time() - begun) / 200)
    assert best < 0.001


@pytest.mark.parametrize(
    ("level", "event", "kept"),
    [
        ("info", {"event": "task_started"}, False),
        ("info", {"event": "task_succeeded"}, False),
        ("info", {"event": "request_finished", "request": "GET /readyz", "code": 200}, False),
        ("info", {"event": "request_finished", "request": "GET /readyz", "code": 503}, True),
        ("info", {"event": "request_finished", "request": "POST /auth/token", "code": 200}, True),
        ("info", {"event": "backup_committed"}, True),
        ("warning", {"event": "task_started"}, True),
    ],
)
def test_routine_is_left_out_and_what_happened_is_kept(level: str, event: dict[str, Any], kept: bool) -> None:
    record = logging.LogRecord("x", logging.getLevelNamesMapping()[level.upper()], "", 0, event, None, None)
    assert RoutineFilter().filter(record) is kept


def test_beats_ticks_are_routine_and_its_warnings_are_not() -> None:
    tick = logging.LogRecord("celery.beat", logging.INFO, "", 0, "Scheduler: Sending due task %s (%s)", None, None)
    start = logging.LogRecord("celery.beat", logging.INFO, "", 0, "beat: Starting...", None, None)
    assert (RoutineFilter().filter(tick), RoutineFilter().filter(start)) == (False, True)


def test_at_debug_nothing_is_left_out() -> None:
    assert logging_config("json", "DEBUG")["handlers"]["stderr"]["filters"] == []
    assert logging_config("json", "INFO")["handlers"]["stderr"]["filters"] == ["routine"]
