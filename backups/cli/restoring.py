"""``manage.py restore``: preview, restore by the proof worker or in this process, and offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backups import keys
from backups.keys import Identity
from backups.machines import RESTORE
from backups.models import BackupRecord, RestoreRecord
from backups.restore.preview import Preview, preview
from backups.restore.requests import request_restore
from backups.restore.run import run_restore
from controlplane.kernel.errors import Refused

from . import exits, facts
from .output import Output, size
from .running import here, whoami

_GROUPS = ("vectors", "configuration", "userdata", "databases", "logs")
_MARKS = {"pass": "✓", "warn": "!", "fail": "✗", "done": "✓", "failed": "✗", "running": "…"}


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine calls options, of what the command line holds."""
    chosen = {group: given[group] for group in _GROUPS}
    return chosen | {
        "stop_services": given["stop_services"] or bool(given["service"]),
        "services": given["service"],
        "minimum_score": given["minimum_score"],
        "without_safety_backup": given["without_safety_backup"],
    }


def restore(given: Mapping[str, Any], output: Output) -> int:
    if given["offline"]:
        from .restoring_offline import restore_offline

        return restore_offline(given, output)
    if given["identity"] and not given["here"]:
        raise Refused("--identity is for work in this process.", remedy="Add --here, or leave --identity out.")
    record = facts.find_record(given["name"])
    facts.demand_parts(record, given["part"])
    seen = preview(record, given["part"], options_of(given), identity=identity_of(given))
    if given["preview"] or not seen.may_begin:
        output.document(asdict(seen) | {"record": record.name, "may_begin": seen.may_begin})
        tell_preview(record, seen, output)
        return code_of(seen)
    demand_confirmation(record.name, given)
    row = request_restore(
        record, artifacts=given["part"], options=options_of(given), requested_by=whoami(), reason=given["reason"],
        send=not given["here"],
    )  # fmt: skip
    if given["here"]:
        run_restore(row.pk, owner=here(), identity_file=identity_file(given))
    row = output.follow(row, row.name, lambda fresh: fresh.state in RESTORE.terminal_states)
    return tell_restore(row, output)


def identity_file(given: Mapping[str, Any]) -> Path | None:
    return Path(given["identity"]).resolve() if given["identity"] else None


def identity_of(given: Mapping[str, Any]) -> Callable[[], Identity] | None:
    """What would open the set here; None where the proof worker does the work."""
    if not given["here"]:
        return None
    file = identity_file(given)
    return (lambda: keys.identity_from_file(file)) if file else keys.drill_identity


def code_of(seen: Preview) -> int:
    if seen.may_begin:
        return exits.DONE
    return exits.NOT_POSSIBLE if any(why.startswith("not possible:") for why in seen.refusals) else exits.REFUSED


def demand_confirmation(name: str, given: Mapping[str, Any]) -> None:
    """Live data is replaced: the name must be given twice, and a reason."""
    if given["confirm"] != name:
        raise Refused("A restore replaces live data.", remedy=f"Look at --preview, then add --confirm {name}")
    if not given["reason"].strip():
        raise Refused("A restore wants a reason, for the record.", remedy='Add --reason "…"')


def tell_preview(record: BackupRecord, seen: Preview, output: Output) -> None:
    output.line(f"{record.name} of plan {record.plan_name}; needs {size(seen.needs_bytes)} beside the live data")
    for part in seen.parts:
        proof = "never proven" if part.proof_level is None else facts.LEVELS[part.proof_level]
        took = f", restored in {part.restore_seconds:.1f} s by the last drill" if part.restore_seconds else ""
        output.line(f"  {part.name} ({part.label}): {size(part.plain_bytes)}, {proof}{took}")
        for finding in part.findings:
            output.line(f"    {_MARKS[finding.status]} {finding.detail}")
    for finding in seen.findings:
        output.line(f"  {_MARKS[finding.status]} {finding.detail}")
    for service in seen.services:
        output.line(f"  service {service.label}: {'would be stopped' if service.would_stop else 'goes on'}")
    if seen.refusals:
        output.line(f"✗ It cannot be restored like this, nothing was touched: {'; '.join(seen.refusals)}")


def tell_restore(row: RestoreRecord, output: Output) -> int:
    output.document(
        {
            "name": row.name,
            "record": row.record.name,
            "parts": row.artifacts,
            "state": row.state,
            "steps": row.steps,
            "score": row.score,
            "safety_record": row.safety_record.name if row.safety_record else None,
            "error": row.error,
        }
    )
    return show_restore(row, output)


def show_restore(row: RestoreRecord, output: Output) -> int:
    for step in row.steps:
        what = " ".join(filter(None, (step.get("step"), step.get("artifact"))))
        output.line(f"  {_MARKS.get(step.get('status', ''), '·')} {what} {step.get('detail') or ''}".rstrip())
    words = {
        "done": f"✓ {row.name}: restored {', '.join(row.artifacts)}; health {row.score}",
        "rolled_back": f"✗ {row.name}: put back as it was. {row.error}",
        "refused": f"✗ {row.name}: not begun, nothing was touched. {row.error}",
        "failed": f"✗ {row.name}: FAILED, and what was there could not be put back. {row.error}",
    }
    output.line(words.get(row.state, f"{row.name} {row.state}"))
    return {"done": exits.DONE, "refused": exits.REFUSED}.get(row.state, exits.FAILED)
