"""django-ratelimit on the two views where passwords are tried: the admin login and ``POST /auth/token``.

Its decorators count in Django's cache, in fixed windows; what they lack is added here: a caller's address
behind trusted proxies, rates from our profiles, ``Retry-After``, and a count per process while Redis is away
(django-ratelimit lets the error through, and nobody could log in).
"""

from __future__ import annotations

import hmac
import json
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256

import redis
import structlog
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django_ratelimit.core import get_usage
from django_ratelimit.decorators import ratelimit

from controlplane.identity.caller import client_of
from controlplane.kernel import clock
from controlplane.kernel.problems import problem_response

from .config import limits_config
from .decision import DEFAULT_ROLE, applicable
from .login_rate import Rate, login_rate

log = structlog.get_logger(__name__)

View = Callable[..., HttpResponseBase]
Key = Callable[[str, HttpRequest], str]
RateOf = Callable[[str, HttpRequest], Rate | None]

#: Per user name, from all addresses together: more than one person who forgot his password needs, far
#: fewer than guessing takes.
ACCOUNT_RATE: Rate = (30, 300)
#: Names are counted up to this length; a longer one is no user's.
LONGEST_USERNAME = 254
_STORE_ERRORS = (redis.RedisError, OSError)


def profile_rate(group: str, request: HttpRequest) -> Rate | None:
    """The rate of the most specific enforced profile whose route prefix covers this path; None: unlimited.

    Whoever logs in is anonymous yet, so only profiles of the role “default” without a subject can apply.
    """
    from .models import RateLimitProfile

    try:
        rows = RateLimitProfile.objects.filter(active=True, enforced=True, role=DEFAULT_ROLE, subject="")
        policies = [row.as_policy() for row in rows.exclude(route_prefix="")]
    except DatabaseError:
        return login_rate()  # the view will say that the database is away; trying is limited all the same
    policy = applicable(policies, role=DEFAULT_ROLE, subject="", path=request.path_info).enforced
    if policy is None:
        return login_rate()
    return None if policy.requests is None else (policy.requests, policy.window_seconds)


def account_rate(group: str, request: HttpRequest) -> Rate:
    return ACCOUNT_RATE


def client_key(group: str, request: HttpRequest) -> str:
    """The client's address behind the trusted proxies, as a keyed hash of fixed length."""
    return _hashed("client", client_of(request).address)


def form_account_key(group: str, request: HttpRequest) -> str:
    return _hashed("account", _normal(request.POST.get("username", "")))


def json_account_key(group: str, request: HttpRequest) -> str:
    try:
        name = json.loads(request.body)["username"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = ""  # the view says what is wrong with the body; the attempts share one count
    return _hashed("account", _normal(name if isinstance(name, str) else ""))


def _normal(name: str) -> str:
    """One account, one count, however its name is written."""
    return unicodedata.normalize("NFKC", name.strip()[:LONGEST_USERNAME]).casefold()


def _hashed(kind: str, text: str) -> str:
    key = limits_config().derived_key("login")
    return hmac.new(key, f"{kind}\x1f{text}".encode("utf-8", "surrogatepass"), sha256).hexdigest()


# --- counting without the store ---------------------------------------------------------------


class ProcessCounts:
    """Fixed windows in this process's memory, for the time in which Redis is away. Bounded and thread-safe."""

    MOST_KEYS = 10_000

    def __init__(self, monotonic: Callable[[], float] = clock.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}
        self._said_at = float("-inf")

    def wait_seconds(self, group: str, value: str, rate: Rate) -> int:
        """Count one attempt; 0 if it is within the rate, else the seconds until a new window begins."""
        limit, seconds = rate
        with self._lock:
            now = self._monotonic()
            if len(self._counts) >= self.MOST_KEYS:
                self._counts = {k: v for k, v in self._counts.items() if v[0] > now}
                while len(self._counts) >= self.MOST_KEYS:
                    del self._counts[next(iter(self._counts))]
            ends_at, count = self._counts.get((group, value), (0.0, 0))
            if ends_at <= now:
                ends_at, count = now + seconds, 0
            self._counts[group, value] = (ends_at, count + 1)
            return 0 if count < limit else max(1, int(ends_at - now) + 1)

    def say_once_a_minute(self, error: BaseException) -> None:
        with self._lock:
            if self._monotonic() - self._said_at < 60:
                return
            self._said_at = self._monotonic()
        log.warning("login_limit_store_unreachable", error=type(error).__name__, counting="per process")

    def clear(self) -> None:
        with self._lock:
            self._counts.clear()
            self._said_at = float("-inf")


process_counts = ProcessCounts()


# --- the guards --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bound:
    """One count: its name, who shares it, and how many are let through."""

    group: str
    key: Key
    rate: RateOf

    def wait_seconds(self, request: HttpRequest) -> int:
        """Count this attempt; 0 if it may pass, else the seconds to wait."""
        try:
            return self._in_store(request)
        except _STORE_ERRORS as error:
            process_counts.say_once_a_minute(error)
            return self._in_process(request)

    def _in_store(self, request: HttpRequest) -> int:
        # The decorator wraps a function that does nothing, so that errors of the view stay the view's own.
        request.limited = False  # type: ignore[attr-defined]  # django-ratelimit's answer
        ratelimit(group=self.group, key=self.key, rate=self.rate, method="POST", block=False)(_nothing)(request)
        if not request.limited:  # type: ignore[attr-defined]
            return 0
        usage = get_usage(request, group=self.group, key=self.key, rate=self.rate, method="POST")
        if usage is None or not usage["limit"] or usage["count"] < usage["limit"]:
            # The count vanished between two commands (evicted): django-ratelimit calls that "limited".
            return self._in_process(request)
        # Its window ends after the second in which time_left is 0.
        return int(usage["time_left"]) + 1

    def _in_process(self, request: HttpRequest) -> int:
        rate = self.rate(self.group, request)
        return 0 if rate is None else process_counts.wait_seconds(self.group, self.key(self.group, request), rate)


def _nothing(request: HttpRequest) -> None:
    return None


def _guard(view: View, bounds: tuple[Bound, ...], refuse: Callable[[HttpRequest, int], HttpResponse]) -> View:
    @wraps(view)
    def guarded(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        if request.method == "POST":
            for bound in bounds:
                # The address first: whoever is over his own limit does not use up the account's.
                wait = bound.wait_seconds(request)
                if wait:
                    log.warning("login_limited", by=bound.group, wait_seconds=wait)
                    return refuse(request, wait)
        return view(request, *args, **kwargs)

    return guarded


def guard_login(view: View) -> View:
    """Limit attempts to log in to the admin; the answer is a page in the login's look."""
    bounds = (
        Bound("zantara.login.client", client_key, profile_rate),
        Bound("zantara.login.account", form_account_key, account_rate),
    )
    return _guard(view, bounds, _refuse_with_a_page)


def guard_token(view: View) -> View:
    """Limit attempts to get a token; the answer is a problem document."""
    bounds = (
        Bound("zantara.token.client", client_key, profile_rate),
        Bound("zantara.token.account", json_account_key, account_rate),
    )
    return _guard(view, bounds, _refuse_with_a_problem)


def _refuse_with_a_page(request: HttpRequest, wait: int) -> HttpResponse:
    from django.contrib import admin

    context = {**admin.site.each_context(request), "title": "Too many attempts", "wait_seconds": wait}
    response = render(request, "ratelimits/login_limited.html", context, status=429)
    response["Retry-After"] = str(wait)
    response["Cache-Control"] = "no-store"
    return response


def _refuse_with_a_problem(request: HttpRequest, wait: int) -> HttpResponse:
    return problem_response(
        429,
        "Too many attempts",
        f"Too many attempts to get a token. Try again in {wait} s.",
        headers={"Retry-After": str(wait)},
        retry_after=wait,
    )
