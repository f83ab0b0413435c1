"""The policy in force, as this process knows it: asked of Redis once a second, never by a request."""

from __future__ import annotations

import os
import threading
import time

import redis
import structlog

from controlplane.kernel.errors import ConfigurationError
from ratelimits.config import limits_config, on_settings_change

from . import publication
from .policy import BUILT_IN, SheddingPolicy

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
#: No request waits for this: patient, and still well within the next poll.
TIMEOUT_SECONDS = 0.5


class PolicySource:
    """The latest policy that this process has seen; the built-in one before the first.

    Where Redis has lost what was published, the process that still knows it puts it back.
    """

    def __init__(self) -> None:
        self.policy: SheddingPolicy = BUILT_IN
        self._client: redis.Redis | None = None
        self._lock = threading.Lock()
        self._pid = 0

    def current(self) -> SheddingPolicy:
        if self._pid != os.getpid():
            self._start()
        return self.policy

    def look(self) -> None:
        """Ask once. Redis away: what is known goes on."""
        try:
            client = self._connected()
            found = publication.read(client)
            if found is None or found.version < self.policy.version:
                if self.policy.version:
                    publication.publish(client, self.policy)
                    log.warning("shedding_policy_republished", version=self.policy.version)
            elif found != self.policy:
                self.policy = found
                log.info("shedding_policy_learned", version=found.version)
        except (redis.RedisError, OSError, ConfigurationError):
            return  # the limiter's breaker reports that Redis is away; here nothing waits for it

    def _connected(self) -> redis.Redis:
        if self._client is None:
            self._client = redis.Redis.from_url(
                limits_config().redis_url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                protocol=2,
            )
        return self._client

    def _start(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid, self._client = os.getpid(), None
        threading.Thread(target=self._watch, name="shedding-policy", daemon=True).start()

    def _watch(self) -> None:
        while self is _source:
            self.look()
            time.sleep(POLL_SECONDS)


_source = PolicySource()


def current_policy() -> SheddingPolicy:
    """What holds for the next request."""
    return _source.current()


@on_settings_change
def forget() -> None:
    """Begin anew: for tests that change the settings."""
    global _source  # noqa: PLW0603  (one per process)
    _source = PolicySource()
