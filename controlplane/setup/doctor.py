"""What is wrong with this installation, and what to do about it: checks of the settings and live probes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import redis
from django.conf import settings
from django.core import checks
from django.db import DatabaseError

from controlplane.kernel import clock
from controlplane.kernel.checks import check_docs, is_private, secret_files
from controlplane.kernel.logs import redact_text
from controlplane.kernel.registry import Probe, ProbeResult, probes
from controlplane.monitoring.health.builtin import missing_sqlite_file, redis_client, redis_url
from controlplane.monitoring.health.probes import run_probes

from .bootstrap import pending_migrations

Status = Literal["ok", "warn", "fail"]

#: What an operator's probe says in doctor's words. Nothing learned is not all well, yet no proof of a fault.
STATUS_OF_PROBE: dict[str, Status] = {"pass": "ok", "warn": "warn", "unknown": "warn", "fail": "fail"}
DATABASE, REDIS = "database", "redis"


@dataclass(frozen=True)
class Finding:
    """One line. A failing one says what to do (``remedy``)."""

    name: str
    status: Status
    summary: str
    remedy: str = ""
    docs: str = ""


@dataclass(frozen=True)
class Diagnosis:
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        found = {finding.status for finding in self.findings}
        return "fail" if "fail" in found else "warn" if "warn" in found else "ok"

    def as_json(self) -> dict[str, Any]:
        return {"status": self.status, "findings": [asdict(finding) for finding in self.findings]}


def diagnose() -> Diagnosis:
    """Look at everything that can be looked at. Servers that are away are findings, never exceptions."""
    answers = _answers()
    findings = _system_checks()
    findings += _secrets()
    findings += [_probe(probe, answers[probe.name]) for probe in probes]
    findings += _migrations(answers.get(DATABASE))
    if REDIS in answers and answers[REDIS].status == "pass":
        findings += _redis_server()
    return Diagnosis(tuple(findings))


def _answers() -> dict[str, ProbeResult]:
    """What every probe says. Without a database file only the servers are asked: a query would make an empty one."""
    if missing_sqlite_file() is None:
        return run_probes(probes)
    later = ProbeResult("unknown", "not asked: there is no database yet", "Run `manage.py bootstrap`.")
    servers = [probe for probe in probes if probe.name in (DATABASE, REDIS)]
    return {probe.name: later for probe in probes} | run_probes(servers)


def _system_checks() -> list[Finding]:
    """Deployment checks too where the installation is meant to be reached by others."""
    public = getattr(settings, "ZANTARA_HTTPS", False)
    try:
        messages = checks.run_checks(include_deployment_checks=public)
    except DatabaseError as error:
        return [
            Finding("system checks", "fail", f"they need the database ({type(error).__name__})", "See the database.")
        ]
    loud = [message for message in messages if message.level >= checks.WARNING and not message.is_silenced()]
    findings = [
        Finding(
            message.id or "system check",
            "fail" if message.level >= checks.ERROR else "warn",
            redact_text(" ".join(str(message.msg).split())),
            redact_text(" ".join(str(message.hint or "Correct the setting that it names.").split())),
            check_docs(message.id) if message.id and message.id.startswith("zantara.") else "",
        )
        for message in loud
    ]
    return findings or [Finding("system checks", "ok", "nothing to report")]


def _secrets() -> list[Finding]:
    """Only the good news: a bad mode is reported by the system check."""
    files = secret_files()
    if not files or not all(is_private(path) for path in files):
        return []
    return [Finding("secrets", "ok", f"{len(files)} files, readable by their owner only")]


def _probe(probe: Probe, result: ProbeResult) -> Finding:
    status = STATUS_OF_PROBE[result.status]
    if status == "warn" and probe.critical and result.status == "unknown":
        status = "fail"
    doubt = "Ask again when what it depends on answers." if result.status == "unknown" else f"Look at {probe.label}."
    remedy = "" if status == "ok" else result.remedy or doubt
    return Finding(probe.name, status, result.summary, remedy, probe.docs)


def _migrations(database: ProbeResult | None) -> list[Finding]:
    if database is None or database.status != "pass" or missing_sqlite_file() is not None:
        return []  # the database's own finding says it, with its remedy
    try:
        pending = pending_migrations()
    except DatabaseError as error:
        return [Finding("migrations", "fail", f"cannot be read ({type(error).__name__})", "Run `manage.py bootstrap`.")]
    if not pending:
        return [Finding("migrations", "ok", "none pending")]
    named = ", ".join(pending[:3]) + (" …" if len(pending) > 3 else "")
    return [Finding("migrations", "fail", f"{len(pending)} pending: {named}", "Run `manage.py bootstrap`.")]


def _redis_server() -> list[Finding]:
    """Version and round trip; the median of five, because the first opens the connection."""
    try:
        with redis_client() as client:
            info: dict[str, Any] = client.info("server")
            taken = []
            for _ in range(5):
                begun = clock.monotonic()
                client.ping()
                taken.append(clock.monotonic() - begun)
    except redis.RedisError as error:
        return [Finding("redis server", "warn", f"INFO was not answered ({type(error).__name__})", "Look at its log.")]
    kind = str(info.get("server_name", "redis")).capitalize()
    version = info.get("valkey_version") or info.get("redis_version", "unknown")
    place = redact_text(str(redis_url()))
    return [Finding("redis server", "ok", f"{kind} {version} at {place}, PING {sorted(taken)[2] * 1000:.2f} ms")]
