"""The recovery kit: what a new machine must know to open the sets of one that is gone, in one encrypted file.

A zip archive, encrypted by age to the recovery key. It holds the key of encrypted fields, the public keys that
manifests are signed with, the storage targets with their credentials, and how to go on. It never holds the private
recovery key: kit and key are kept in two places, and only together open anything.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
from django.conf import settings
from django.core.exceptions import ValidationError

from backups import keys, recovery_line
from backups.errors import Damaged, NoIdentity
from backups.models import Artifact, BackupPlan, BackupRecord, StorageTarget
from controlplane.kernel import clock
from controlplane.kernel.env import Env
from controlplane.kernel.errors import Refused
from controlplane.kernel.local_secrets import secret_file

FORMAT = 1
FILE_NAME = "zantara-recovery-kit.zip.age"
_MOST_BYTES = 16 * 2**20
_TARGET_FIELDS = (
    "name", "kind", "path", "endpoint_url", "bucket", "prefix", "region", "path_style", "checksum_mode",
    "access_key_id", "secret_access_key",
)  # fmt: skip

HOW_TO = """\
Recovery kit of a Zantara control plane, made {made_at}
=======================================================

You need: this kit, the recovery key (a file that begins with "# public key: {recipient}" or holds the
AGE-SECRET-KEY-1… line that belongs to it), and the place where the sets are kept (targets.json says where).

To open this kit:         age --decrypt --identity recovery_key.txt {file_name} > kit.zip && unzip kit.zip

With Zantara, on a new machine
  1. Install it and run `manage.py bootstrap`.
  2. manage.py backup kit --install {file_name} --identity recovery_key.txt
     It adds the storage targets, trusts the keys in trusted/, and keeps fields_key to read old encrypted fields.
     A target that is a local directory: mount its disk at the same path first, or correct the path in the admin.
  3. manage.py backup rebuild-catalogue
  4. manage.py restore              (and for the control plane's own database: manage.py restore --offline)

Without Zantara
  lines.txt holds, for the newest restore point of each plan when this kit was made, the one line per artifact that
  restores it with age, zstd and the program that reads it. Later sets lie beside it, in the same form:
  sets/<plan>/<year>/<month>/<set>/<artifact>/part-*.age. A folder without an object named COMMIT is no set.
  For S3, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY as in targets.json.

Make a new kit whenever a target, a credential or a key changes.
"""


@dataclass(frozen=True)
class Kit:
    """An opened kit. Its text form shows no secret."""

    made_at: str
    fields_key: str
    trusted: Mapping[str, bytes]
    targets: Sequence[Mapping[str, Any]]
    how_to: str
    lines: str

    def __repr__(self) -> str:
        return f"<Kit of {self.made_at}, {len(self.targets)} targets, {len(self.trusted)} keys>"


@dataclass(frozen=True)
class Installed:
    """What ``install_kit`` did: names of targets that were added and that were there already, ids of the keys that
    are trusted now, and whether another key for encrypted fields was added (then processes must be restarted)."""

    added_targets: tuple[str, ...]
    present_targets: tuple[str, ...]
    trusted_keys: tuple[str, ...]
    fields_key_added: bool


def make_kit(recipients: Sequence[str] | None = None) -> bytes:
    """The encrypted kit; to the recovery key alone unless ``recipients`` says otherwise.

    ConfigurationError without a recovery key.
    """
    recovery = keys.recovery_recipient()
    made_at = clock.now().isoformat(timespec="seconds")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("README.txt", HOW_TO.format(made_at=made_at, recipient=recovery, file_name=FILE_NAME))
        file.writestr("kit.json", json.dumps({"format": FORMAT, "made_at": made_at, "recovery_recipient": recovery}))
        file.writestr("fields_key", getattr(settings, "ZANTARA_FIELDS_KEY", None) or "")
        for key_id, key in keys.trusted_keys().items():
            file.writestr(f"trusted/{key_id}.pub", keys.public_pem(key))
        targets = [{name: getattr(row, name) for name in _TARGET_FIELDS} for row in StorageTarget.objects.all()]
        file.writestr("targets.json", json.dumps(targets, indent=2, sort_keys=True))
        file.writestr("lines.txt", _lines())
    return bytes(pyrage.encrypt(archive.getvalue(), keys.as_age(tuple(recipients or (recovery,)))))


def _lines() -> str:
    text = []
    for plan in BackupPlan.objects.select_related("target"):
        record = BackupRecord.objects.filter(plan=plan, state="committed").order_by("-committed_at").first()
        if record is None:
            continue
        text.append(f"# {plan.name}: {record.name} of {record.committed_at}, in {record.target}")
        for artifact in Artifact.objects.filter(record=record):
            text += [f"# {artifact.name} ({artifact.kind})", recovery_line.line_for(artifact, record), ""]
    return "\n".join(text) + "\n"


def open_kit(path: Path, identity: keys.Identity) -> Kit:
    """The kit in a file. NoIdentity where ``identity`` does not open it, Damaged where it is not a kit, Refused where
    it cannot be read or is of a later version.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise Damaged(f"{path} is no recovery kit: it is too large.")
        body = path.read_bytes()
    except OSError as error:
        raise Refused(
            f"The kit {path} cannot be read ({error.strerror}).", remedy="Name the file of the kit."
        ) from None
    try:
        return _kit(pyrage.decrypt(body, identity.keys))
    except pyrage.DecryptError as error:
        if "matching keys" in str(error).lower():
            raise NoIdentity(
                f"{path} was not encrypted to this identity.",
                remedy="Use the recovery key of the installation that made the kit.",
            ) from None
        raise Damaged(f"{path} is no recovery kit, or was changed: {error}.", remedy="Use another copy.") from None
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError):
        raise Damaged(f"{path} can be decrypted, but is no recovery kit.") from None


def _kit(archive: bytes) -> Kit:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        about = json.loads(file.read("kit.json"))
        if about["format"] > FORMAT:
            raise Refused(f"This kit has format {about['format']}.", remedy="Use a newer version of Zantara.")
        names = [name for name in file.namelist() if name.startswith("trusted/") and name.endswith(".pub")]
        return Kit(
            made_at=str(about["made_at"]),
            fields_key=file.read("fields_key").decode(),
            trusted={Path(name).stem: file.read(name) for name in names},
            targets=[{name: row[name] for name in _TARGET_FIELDS} for row in json.loads(file.read("targets.json"))],
            how_to=file.read("README.txt").decode(),
            lines=file.read("lines.txt").decode(),
        )


def install_kit(kit: Kit, env: Env | None = None) -> Installed:
    """Make this installation know what the kit knows. Idempotent; a target of a name that is taken stays as it is."""
    env = env or Env()
    trusted = keys.folder(env) / "trusted"
    trusted.mkdir(mode=0o700, parents=True, exist_ok=True)
    ids = []
    for pem in kit.trusted.values():
        key = keys.load_public_key(pem, "A key of the kit")
        ids.append(keys.key_id(key))
        keys.write_once(trusted / f"{ids[-1]}.pub", keys.public_pem(key), mode=0o644)
    added, present = [], []
    for row in kit.targets:
        if StorageTarget.objects.filter(name=row["name"]).exists():
            present.append(str(row["name"]))
        else:
            target = StorageTarget(**{str(name): value for name, value in row.items()})
            try:
                target.full_clean()
            except ValidationError as error:
                said = "; ".join(error.messages)
                raise Refused(
                    f"The kit's target {row['name']} makes no sense: {said}", remedy="Add it by hand."
                ) from None
            target.save()
            added.append(target.name)
    return Installed(tuple(added), tuple(present), tuple(ids), _add_fields_key(kit.fields_key, env))


def _add_fields_key(key: str, env: Env) -> bool:
    """Behind our own key, which goes on encrypting; the kit's decrypts what a restored database holds."""
    wanted = [part.strip() for part in key.split(",") if part.strip()]
    ours = [part.strip() for part in (getattr(settings, "ZANTARA_FIELDS_KEY", None) or "").split(",") if part.strip()]
    file = secret_file("fields_key", env)
    if file.exists():
        ours = [part.strip() for part in file.read_text(encoding="ascii").split(",") if part.strip()]
    if all(part in ours for part in wanted):
        return False
    if env.text("ZANTARA_FIELDS_KEY") or env.text("ZANTARA_FIELDS_KEY_FILE"):
        raise Refused(
            "The key for encrypted fields is given by the environment, and does not hold the kit's.",
            remedy="Add the kit's fields_key to it, behind the present one and a comma; then install the kit again.",
        )
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, ",".join([*ours, *(part for part in wanted if part not in ours)]).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(file)
    return True
