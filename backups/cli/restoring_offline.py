"""``manage.py restore --offline``: the control plane's own database, while nothing runs on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.db import DatabaseError

from backups import keys
from backups.errors import NoIdentity
from backups.keys import Identity
from backups.manifest import Manifest
from backups.models import BackupRecord, StorageTarget
from backups.restore import offline
from backups.restore.offline import OfflineRestored
from backups.storage import open_target
from controlplane.kernel.errors import Refused

from . import exits
from .output import Output, size
from .running import whoami


def restore_offline(given: Mapping[str, Any], output: Output) -> int:
    from .restoring import demand_confirmation

    if len(given["part"]) > 1:
        raise Refused("Offline, one part is restored.", remedy="Leave --part out, or name the database.")
    target = target_of(given)
    prefix, manifest = offline.find_set(open_target(target), given["name"])
    part = offline.own_artifact(manifest, "".join(given["part"]))
    if given["preview"]:
        _tell_preview(manifest, part.name, part.plain_bytes, target, output)
        return exits.DONE
    demand_confirmation(manifest.name, given)
    done = offline.restore_offline(
        target, prefix, identity=identity_of(given), artifact=part.name, requested_by=whoami(), reason=given["reason"],
        say=output.line,
    )  # fmt: skip
    return _tell(done, output)


def target_of(given: Mapping[str, Any]) -> StorageTarget:
    """Where the set is: the directory, the target that is named, that of the known record, or the only one.

    Refused where none of them says it; the rows may be gone together with the database.
    """
    if given["directory"]:
        folder = Path(given["directory"]).resolve()
        if not folder.is_dir():
            raise Refused(f"There is no directory {folder}.", remedy="Name the one that holds the folder “sets”.")
        return StorageTarget(name="from", kind=StorageTarget.Kind.LOCAL, path=str(folder))
    try:
        targets = {target.name: target for target in StorageTarget.objects.all()}
        record = BackupRecord.objects.select_related("target").filter(name=given["name"]).first()
    except DatabaseError as error:
        raise Refused(
            f"The present database does not know of targets ({type(error).__name__}).",
            remedy="Name a directory with --from, or run `manage.py bootstrap` and install the recovery kit.",
        ) from None
    known = ", ".join(sorted(targets)) or "none; name a directory with --from, or install the recovery kit"
    if given["target"] and given["target"] not in targets:
        raise Refused(f"There is no target named {given['target']}.", remedy=f"There are: {known}.")
    if given["target"]:
        return targets[given["target"]]
    if record is not None:
        return record.target
    if len(targets) != 1:
        raise Refused("It is not known where the restore point is.", remedy=f"Name a target with --target: {known}.")
    return next(iter(targets.values()))


def identity_of(given: Mapping[str, Any]) -> Identity:
    if given["identity"]:
        return keys.identity_from_file(Path(given["identity"]))
    try:
        return keys.drill_identity()
    except NoIdentity:
        raise NoIdentity(
            "Nothing here opens the restore point.",
            remedy="Give the file of the recovery key with --identity.",
        ) from None


def _tell_preview(manifest: Manifest, part: str, plain_bytes: int, target: StorageTarget, output: Output) -> None:
    output.document(
        {
            "record": manifest.name,
            "part": part,
            "plain_bytes": plain_bytes,
            "target": target.name,
            "committed_at": manifest.committed_at,
        }
    )
    output.line(f"{manifest.name} of {manifest.committed_at:%Y-%m-%d %H:%M} UTC, in {target.name or target.path}")
    output.line(f"  {part}: {size(plain_bytes)}, would take the place of this installation's database")
    output.line("  the present database would be kept beside it")


def _tell(done: OfflineRestored, output: Output) -> int:
    output.document(asdict(done))
    for said in done.said:
        output.line(f"  {said}")
    if done.aborted:
        output.line(f"  ended, as they were going on in the backup: {', '.join(done.aborted)}")
    if done.catalogued:
        output.line(f"  newer restore points that were found: {', '.join(done.catalogued)}")
    for warning in done.warnings:
        output.line(f"! {warning}")
    kept = f" The former one is kept: {done.former}" if done.former else ""
    output.line(f"✓ {done.name}: the database of {done.record_name} is in place.{kept}")
    return exits.WARNINGS if done.warnings else exits.DONE
