"""What the parts of the project count, one function each. Cheap enough for request paths; none of them raises."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

from django.http import HttpRequest

from controlplane.identity.roles import known_role

from .registry import counter, gauge, histogram

requests_total = counter("zantara_requests_total")
request_duration = histogram("zantara_request_duration_seconds")
role_duration = histogram("zantara_role_duration_seconds")
_vector_operations = counter("zantara_vector_operations_total")
_jwt_operations = counter("zantara_jwt_operations_total")
_decisions = counter("zantara_limit_decisions_total")
_shadow_denials = counter("zantara_limit_shadow_denials_total")
_limiter_errors = counter("zantara_limiter_errors_total")
_breaker_state = gauge("zantara_limiter_breaker_state")
_sheds = counter("zantara_sheds_total")
_shed_delay = histogram("zantara_shed_delay_seconds")
_admission_limit = gauge("zantara_admission_limit")
_task_duration = histogram("zantara_celery_task_duration_seconds")
_task_failures = counter("zantara_celery_task_failures_total")

BREAKER_STATES = {"closed": 0.0, "half-open": 1.0, "open": 2.0}
_HANDLER = "_zantara_handler"

P = ParamSpec("P")
R = TypeVar("R")


class Decided(Protocol):
    """What is counted of a limiter's decision."""

    allowed: bool
    source: Any
    asker: Any
    would_deny: tuple[str, ...]


def name_handler(request: HttpRequest, key: str) -> None:
    """Say which handler serves this request. Only a name that the service knows: callers make up others."""
    setattr(request, _HANDLER, key)


def handler_of(request: HttpRequest) -> str:
    return getattr(request, _HANDLER, "unknown")


def count_vector_operation(operation: str, provider: str, status: Literal["success", "failure"]) -> None:
    _vector_operations.add((operation, provider, status))


def vector_operation(operation: str, provider: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a method that works on vectors: whatever it raises is a failure."""
    succeeded, failed = (operation, provider, "success"), (operation, provider, "failure")

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @wraps(method)
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                result = method(*args, **kwargs)
            except BaseException:
                _vector_operations.add(failed)
                raise
            _vector_operations.add(succeeded)
            return result

        return counted

    return decorate


def count_jwt_operation(operation: str, status: str, role: str) -> None:
    """A listener for ``controlplane.identity.tokens.on_operation``; see :func:`listen_to_tokens`."""
    _jwt_operations.add((operation, status, role))


def listen_to_tokens() -> None:
    """Count every token that is verified or issued in this process from now on."""
    from controlplane.identity.tokens import on_operation

    if count_jwt_operation not in on_operation:
        on_operation.append(count_jwt_operation)


def count_decision(decision: Decided) -> None:
    outcome = "allowed" if decision.allowed else "denied"
    _decisions.add((known_role(decision.asker.role), outcome, decision.source))
    for policy in decision.would_deny:
        _shadow_denials.add((policy,))


def count_limiter_error(error: BaseException) -> None:
    _limiter_errors.add((type(error).__name__,))


def set_breaker_state(state: str) -> None:
    _breaker_state.set((), BREAKER_STATES[state])


def count_shed(reason: str, role: str) -> None:
    _sheds.add((reason, known_role(role)))


def observe_shed_delay(role: str, seconds: float) -> None:
    _shed_delay.observe((known_role(role),), seconds)


def set_admission_limit(requests: float) -> None:
    _admission_limit.set((), requests)


def count_task(task: str, seconds: float, *, failed: bool) -> None:
    """A task that ended; ``task`` is the name of a registered one."""
    _task_duration.observe((task,), seconds)
    if failed:
        _task_failures.add((task,))
