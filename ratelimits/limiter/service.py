"""The limiter: one round trip per decision, and what happens when it cannot be made."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import redis
import structlog

from controlplane.monitoring.metrics import count_limiter_error, set_breaker_state
from ratelimits.config import LimitsConfig
from ratelimits.decision import BUILT_IN, Applied, Policy, PolicySet, applicable, key_material
from ratelimits.window import bucket_width

from . import keys
from .breaker import Breaker, State
from .local import LocalWindows, share
from .outcome import Asker, Decision, Window
from .publication import read, tag_of, version_of
from .script import DECIDE, PUBLISH
from .store import Argument, AsyncStore, Call, Store

log = structlog.get_logger(__name__)

#: Callers (with their paths) whose plans are kept; all are forgotten when there are more. A few MB when full, so
#: long paths, which a caller may make up, are planned anew each time.
MOST_PLANS = 2000
LONGEST_PATH = 200
#: How often one request may learn of a newer set, or put the set back, before it gives the store up.
MOST_ATTEMPTS = 5


class _Unsettled(redis.RedisError):
    """The policy set in the store kept changing, or cannot be read; or the answer is none of our script's."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one caller's requests ask of the store under one policy set."""

    policies: PolicySet
    applied: Applied
    windows: tuple[Window, ...]
    caller: bytes
    call: Call


class Limiter:
    """Decides for one process. Thread-safe, and usable from any event loop.

    It starts with the set built into the code and learns of the published one in the first call: the
    script refuses to count under any other set than the one in force.
    """

    def __init__(self, config: LimitsConfig) -> None:
        self._config = config
        self._store = Store(config.redis_url, config.timeout_seconds)
        self._astore = AsyncStore(config.redis_url, config.timeout_seconds)
        self._caller_key = config.derived_key("caller")
        self._local = LocalWindows()
        self._lock = threading.Lock()
        self._policies = BUILT_IN
        self._tag = tag_of(BUILT_IN)
        self._plans: dict[tuple[str, str, str, str], _Plan] = {}
        self.breaker = Breaker(tell=set_breaker_state)
        set_breaker_state("closed")

    @property
    def breaker_state(self) -> State:
        return self.breaker.state

    @property
    def policies(self) -> PolicySet:
        """The last set that this process has seen in force."""
        return self._policies

    def decide(self, asker: Asker) -> Decision:
        """Decide and count. Never raises for a store that is away: the profile's fail mode answers."""
        if not self.breaker.admits():
            return self._without_store(asker)
        try:
            for _ in range(MOST_ATTEMPTS):
                plan = self._plan(asker)
                answer = self._store.run(plan.call)
                if not self._is_stale(plan, answer):
                    self.breaker.succeeded()
                    return self._conclude(plan, asker, answer)
                publish = self._reconcile(plan, answer)
                if publish is not None:
                    self._store.run(publish)
            raise _Unsettled("the policy set did not settle")
        except (redis.RedisError, OSError) as error:
            self._note_failure(error)
            return self._without_store(asker)

    async def adecide(self, asker: Asker) -> Decision:
        """The same for async callers."""
        if not self.breaker.admits():
            return self._without_store(asker)
        try:
            for _ in range(MOST_ATTEMPTS):
                plan = self._plan(asker)
                answer = await self._astore.run(plan.call)
                if not self._is_stale(plan, answer):
                    self.breaker.succeeded()
                    return self._conclude(plan, asker, answer)
                publish = self._reconcile(plan, answer)
                if publish is not None:
                    await self._astore.run(publish)
            raise _Unsettled("the policy set did not settle")
        except (redis.RedisError, OSError) as error:
            self._note_failure(error)
            return self._without_store(asker)

    def caller_hash(self, policy: Policy, *, subject: str, address: str) -> bytes:
        """The hash under which a policy counts this caller."""
        return keys.caller_hash(key_material(policy.key, subject=subject, address=address), self._caller_key)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._astore.close()

    # --- one call of the script ---------------------------------------------------------------

    def _plan(self, asker: Asker) -> _Plan:
        who = (asker.role, asker.subject, asker.address, asker.path)
        plan = self._plans.get(who)
        if plan is None:
            with self._lock:
                policies, tag, plans = self._policies, self._tag, self._plans
            plan = self._new_plan(asker, policies, tag)
            if len(asker.path) <= LONGEST_PATH:
                if len(plans) >= MOST_PLANS:
                    plans.clear()
                plans[who] = plan  # of the set that it was made for: a newer set comes with a dictionary of its own
        return plan

    def _new_plan(self, asker: Asker, policies: PolicySet, tag: str) -> _Plan:
        applied = applicable(policies.policies, role=asker.role, subject=asker.subject, path=asker.path)
        windows: list[Window] = []
        counters, usages, args = [keys.POLICY_SET], [], list[Argument]((tag, 1, len(applied.policies)))
        caller = b""
        for policy in applied.policies:
            pairs = _windows(policy)
            args += (int(policy.enforced), len(pairs))
            if not pairs:
                continue
            digest = self.caller_hash(policy, subject=asker.subject, address=asker.address)
            text = keys.caller_text(digest)
            caller = digest if policy.enforced else caller
            usages.append(keys.usage(policy.id))
            for window in pairs:
                counters.append(keys.counter(policy.id, window.number, text))
                args += (window.limit, bucket_width(window.seconds))
            windows += pairs
        return _Plan(policies, applied, tuple(windows), caller, Call(DECIDE, counters + usages, args))

    @staticmethod
    def _is_stale(plan: _Plan, answer: object) -> bool:
        """Whether the set that the caller knows is not the one in force; _Unsettled if that was not our script."""
        if isinstance(answer, list):
            if len(answer) == 3 and answer[0] == b"stale" and type(answer[1]) is type(answer[2]) is bytes:
                return True
            if len(answer) == 1 + 3 * len(plan.windows) and all(type(number) is int for number in answer):
                return False
        raise _Unsettled("the store's answer makes no sense")

    @staticmethod
    def _conclude(plan: _Plan, asker: Asker, answer: list[int]) -> Decision:
        enforced: list[Window] = []
        would_deny: tuple[str, ...] = ()
        at = 1
        for window in plan.windows:
            policy, wait = window.policy, answer[at + 2]
            if policy.enforced:
                enforced.append(
                    Window(policy, window.number, window.limit, window.seconds, answer[at], answer[at + 1], wait)
                )
            elif wait:
                would_deny = (policy.name,)
            at += 3
        return Decision(
            bool(answer[0]),
            "store" if enforced else "none",
            plan.policies.version,
            asker,
            plan.applied.enforced,
            tuple(enforced),
            would_deny,
            plan.caller,
        )

    def _reconcile(self, plan: _Plan, answer: list[bytes]) -> Call | None:
        """Learn of the set in the store; where it holds none or an older one, the call that puts ours back."""
        tag, text = answer[1], answer[2]
        with self._lock:
            if version_of(tag) >= max(1, self._policies.version):
                try:
                    self._policies = read(tag, text)
                except ValueError as error:
                    raise _Unsettled("the published policy set cannot be read") from error
                self._tag, self._plans = tag.decode(), {}
                return None
            ours = self._policies
        if ours is not plan.policies:
            return None  # another thread has learned of a newer one since this question was put
        log.warning("policies_republished", version=ours.version, found=version_of(tag))
        return Call(PUBLISH, [keys.POLICY_SET], [ours.version, tag_of(ours), ours.to_json()])

    # --- without the store --------------------------------------------------------------------

    def _note_failure(self, error: BaseException) -> None:
        count_limiter_error(error)
        if self.breaker.failed(error):
            log.error("limiter_store_lost", error=type(error).__name__)

    def _without_store(self, asker: Asker) -> Decision:
        policies = self._policies
        applied = applicable(policies.policies, role=asker.role, subject=asker.subject, path=asker.path)
        policy = applied.enforced
        windows = _windows(policy) if policy else ()
        if policy is None or not windows:
            return Decision(True, "none", policies.version, asker, policy)
        if policy.fail_mode != "local":
            opened = policy.fail_mode == "open"
            return Decision(opened, "open" if opened else "closed", policies.version, asker, policy)
        digest = self.caller_hash(policy, subject=asker.subject, address=asker.address)
        text = keys.caller_text(digest)
        windows = tuple(replace(w, limit=share(w.limit, self._config.processes)) for w in windows)
        looks = self._local.decide([(keys.counter(policy.id, w.number, text), w.limit, w.seconds) for w in windows])
        allowed = all(seen.fits for seen in looks)
        seen = tuple(
            replace(w, used=look.ring.total + allowed, reset_us=look.resets_in, wait_us=look.wait)
            for w, look in zip(windows, looks, strict=True)
        )
        return Decision(allowed, "local", policies.version, asker, policy, seen, (), digest)


def _windows(policy: Policy) -> tuple[Window, ...]:
    """The policy's windows, the limit first; none for an unlimited policy."""
    if policy.requests is None:
        return ()
    window = Window(policy, 0, policy.requests, policy.window_seconds)
    if policy.burst_requests is None or policy.burst_window_seconds is None:
        return (window,)
    return (window, Window(policy, 1, policy.burst_requests, policy.burst_window_seconds))
