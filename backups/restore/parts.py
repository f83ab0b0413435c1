"""From a part of a restore point to the Source and the Restorer that bring it back."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.forms.models import model_to_dict

from backups.errors import CannotRestore
from backups.models import Artifact, BackupSource, StorageTarget
from backups.sources.base import Place, Restorer, Source, kinds
from controlplane.kernel.encrypted import decrypt, encrypt

from .journal import Journal, PartState

_TARGET_FIELDS = (
    "name", "kind", "path", "endpoint_url", "bucket", "prefix", "region", "path_style", "checksum_mode",
    "access_key_id", "secret_access_key",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """What a part is made of: its kind and settings as they are now, else as they were when it was captured."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    secrets: Mapping[str, str]
    row: BackupSource | None = None

    @property
    def group(self) -> str:
        return str(kind_of(self.kind).group)

    def source(self) -> Source:
        """CannotRestore where the kind is unknown here or does not take the settings."""
        return make_source(self.name, self.kind, self.settings, self.secrets)


def kind_of(kind: str) -> type[Source]:
    """CannotRestore for a kind that this version does not have."""
    if kind not in kinds:
        raise CannotRestore(
            f"This version cannot restore sources of kind {kind!r}.",
            remedy="Use the version that made the restore point, or a newer one.",
        )
    return kinds.get(kind)


def make_source(name: str, kind: str, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> Source:
    """The source with its settings checked by its kind; Refused, naming the setting, where they make no sense."""
    cls = kind_of(kind)
    return cls(name, cls.clean(settings, secrets), secrets)


def origin_of(artifact: Artifact) -> Origin:
    """The source's row where there still is one of that kind (by link, else by name); it knows the secrets and where
    the source lives today. Otherwise what the restore point says, which never holds a secret.
    """
    row = artifact.source
    if row is None or row.kind != artifact.kind:
        row = BackupSource.objects.filter(name=artifact.name, kind=artifact.kind).first()
    if row is not None:
        return Origin(artifact.name, artifact.kind, row.settings, row.secrets, row)
    return Origin(artifact.name, artifact.kind, artifact.settings, {})


def part_state(origin: Origin, *, position: int, plain_bytes: int, restore: str) -> PartState:
    """The part as the journal begins it."""
    return PartState(
        name=origin.name,
        kind=origin.kind,
        settings=dict(origin.settings),
        secrets=encrypt(json.dumps(dict(origin.secrets))) if origin.secrets else "",
        position=position,
        plain_bytes=plain_bytes,
        token=token_of(restore, origin.name),
    )


def token_of(restore: str, part: str) -> str:
    """Ten letters and digits that are the part's in this restore, whichever worker works on it."""
    return "r" + hashlib.sha256(f"{restore}/{part}".encode()).hexdigest()[:9]


def restorer_of(journal: Journal, part: PartState, *, fallback: bool = False) -> Restorer:
    """The part's Restorer, remembering what the journal holds. ``fallback``: the one for its safety backup."""
    name = f"{part.position:02d}-{part.name}" + ("-safety" if fallback else "")
    path = journal.work_folder() / name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    source = make_source(part.name, part.kind, part.settings, json.loads(decrypt(part.secrets) or "{}"))
    restorer = source.restorer(Place(path, part.token + ("s" if fallback else "")))
    if remembered := part.fallback_memory if fallback else part.memory:
        restorer.memory = dict(remembered)
    return restorer


def tell_expectations(restorer: Restorer, expectations: Mapping[str, Any]) -> None:
    """Kinds that look ahead (versions, extensions, owners) have a place for what the set expects."""
    if hasattr(restorer, "expectations"):
        restorer.expectations = expectations


def remove_work(journal: Journal) -> None:
    """Remove the folder of this restore's Restorers; the parent too where it was the last."""
    shutil.rmtree(journal.work_folder(), ignore_errors=True)
    try:
        journal.work_folder().parent.rmdir()
    except OSError:
        return  # another restore is at work


def describe_target(target: StorageTarget) -> dict[str, Any]:
    """The target as the journal holds it: its credential encrypted as in the database."""
    fields = model_to_dict(target, fields=_TARGET_FIELDS)
    return {**fields, "secret_access_key": encrypt(fields["secret_access_key"])}


def target_of(described: Mapping[str, Any]) -> StorageTarget:
    """The target again, not saved: enough to open it."""
    return StorageTarget(**{**described, "secret_access_key": decrypt(described["secret_access_key"])})


def is_within(path: Path, parent: Path) -> bool:
    return path == parent or parent in path.parents
