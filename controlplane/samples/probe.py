"""The probe of the sampled services: does each still answer?"""

from __future__ import annotations

from django.db import DatabaseError

from controlplane.kernel import clock
from controlplane.kernel.registry import Probe, ProbeResult
from controlplane.monitoring.health.builtin import missing_sqlite_file

from .series import latest
from .sources import sources

#: Three ticks were missed.
LATE_AFTER_SECONDS = 60


def probe_services() -> ProbeResult:
    """From the newest samples: ``warn`` where a service did not answer, or none were taken lately."""
    if missing_sqlite_file() is not None:  # asking would create an empty one
        return ProbeResult("unknown", "there is no database yet", "Run `manage.py bootstrap`.")
    names = [source.name for source in sources()]
    try:
        rows = latest(names)
    except DatabaseError as error:  # its own probe says what is wrong; before bootstrap there is no table yet
        return ProbeResult(
            "unknown", f"the samples cannot be read ({type(error).__name__})", "Run `manage.py bootstrap`."
        )
    if not rows:
        return ProbeResult("unknown", "no samples have been taken yet", "Wait 15 s; beat and the engine worker run?")
    now = clock.now()
    late = [name for name in names if name not in rows or (now - rows[name].at).total_seconds() > LATE_AFTER_SECONDS]
    down = [name for name in names if name not in late and not rows[name].up]
    if down:
        return ProbeResult(
            "warn",
            f"no metrics from {', '.join(down)}",
            "Start the service, or correct its address in ZANTARA_SERVICES or its ZANTARA_METRICS_TOKEN.",
        )
    if late:
        return ProbeResult("warn", f"no recent sample of {', '.join(late)}", "See that beat and the engine worker run.")
    return ProbeResult("pass", f"all {len(names)} answer", observed=float(len(names)), unit="services")


PROBE = Probe(
    name="services",
    label="Sampled services",
    run=probe_services,
    timeout_seconds=0.5,
    docs="docs/health.md#probe-services",
)
