"""Beat's heartbeat: a task each minute whose arrival proves beat, broker and the engine worker alike."""

from __future__ import annotations

import socket
from datetime import datetime

from controlplane.kernel import clock
from controlplane.kernel.errors import Unavailable
from controlplane.kernel.registry import Probe, ProbeResult, ScheduleSpec

from . import store

PERIOD_SECONDS = 60
#: Two heartbeats may be missed, with half a period for a busy machine, before anybody is told.
LATE_AFTER_SECONDS = 150

SPEC = ScheduleSpec(
    name="zantara.heartbeat",
    task="controlplane.schedules.heartbeat",
    label="Heartbeat",
    description="Proves each minute that beat sends, Redis carries and the engine worker runs.",
    every_seconds=PERIOD_SECONDS,
    queue="engine",
    expires_seconds=50,
    editable=False,
)


def beat_once() -> None:
    """Write the heartbeat; raises ``redis.RedisError`` if it did not get there."""
    store.write_heartbeat(clock.now(), socket.gethostname())


def last_heartbeat() -> datetime | None:
    """When the chain last worked; None if never, or if Redis does not say."""
    try:
        return store.read_heartbeat()
    except Unavailable:
        return None


def probe_beat() -> ProbeResult:
    """``warn`` when the heartbeat is late or was never seen, ``unknown`` when Redis cannot be asked."""
    remedy = "See that beat and the engine worker run (`manage.py up` shows their lines), then wait one minute."
    try:
        at = store.read_heartbeat()
    except Unavailable as problem:
        return ProbeResult("unknown", problem.message, "Bring Redis back first; beat's messages go through it.")
    if at is None:
        return ProbeResult("warn", "No heartbeat of beat has been seen yet.", remedy)
    age = max(0.0, (clock.now() - at).total_seconds())
    if age > LATE_AFTER_SECONDS:
        return ProbeResult("warn", f"The last heartbeat of beat is {age:.0f} s old.", remedy, age, "s")
    return ProbeResult("pass", f"Beat's heartbeat is {age:.0f} s old.", observed=age, unit="s")


PROBE = Probe(
    name="beat",
    label="Schedules (beat, broker, engine worker)",
    run=probe_beat,
    timeout_seconds=1.5,
    docs="docs/schedules.md#the-heartbeat",
)
