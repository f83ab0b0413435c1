"""From a row to its store, and what can be said of a row before anybody is asked."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings

from backups.errors import StorageRefused
from backups.models import StorageTarget

from .base import Storage
from .connection import Connection
from .local import LocalStorage
from .names import is_key

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def local_root(target: StorageTarget) -> Path:
    """The directory of a local target; a relative one is in the data directory."""
    return Path(settings.ZANTARA_DATA_DIR) / target.path


def open_target(target: StorageTarget) -> Storage:
    """The store that the row describes; see ``backups.storage.open_target``."""
    wrong = check_settings(target)
    if wrong:
        said = "; ".join(f"{field}: {message}" for field, message in wrong)
        raise StorageRefused(f"The storage target {target} cannot be used: {said}", remedy="Correct it in the admin.")
    if target.kind == StorageTarget.Kind.LOCAL:
        return _local(target)
    from .s3 import S3Storage  # boto3 takes a third of a second: only where there is a bucket

    return S3Storage(connection_of(target), prefix=target.prefix)


def connection_of(target: StorageTarget) -> Connection:
    """How the bucket of an S3 target is reached."""
    return Connection(
        bucket=target.bucket,
        region=target.region,
        endpoint_url=target.endpoint_url,
        path_style=target.path_style,
        checksum_mode=target.checksum_mode,
        access_key_id=target.access_key_id,
        secret_access_key=target.secret_access_key,
    )


def check_settings(target: StorageTarget) -> list[tuple[str, str]]:
    """What makes no sense in the row, as (field, message) for a form. Asks no store."""
    if target.kind == StorageTarget.Kind.LOCAL:
        return _wrong_path(target)
    found = []
    if not _BUCKET.fullmatch(target.bucket) or ".." in target.bucket:
        found.append(("bucket", "A bucket's name has 3 to 63 small letters, digits, dots and dashes."))
    if target.prefix.strip("/") and not is_key(target.prefix.strip("/")):
        found.append(("prefix", "Folders of letters, digits and . _ - with slashes between them, or nothing."))
    if not _REGION.fullmatch(target.region):
        found.append(("region", "Say the bucket's region, like us-east-1; most servers of one's own take any."))
    if bool(target.access_key_id) != bool(target.secret_access_key):
        lacking = "secret_access_key" if target.access_key_id else "access_key_id"
        found.append((lacking, "Access key and secret key go together; leave both empty to use this machine's role."))
    return found + _wrong_endpoint(target.endpoint_url)


def _wrong_path(target: StorageTarget) -> list[tuple[str, str]]:
    if not target.path.strip():
        return [("path", "Say in which directory the sets are kept.")]
    root, data = Path(target.path), Path(settings.ZANTARA_DATA_DIR).resolve()
    if ".." in root.parts:
        return [("path", "Write the path without “..”.")]
    resolved = (data / root).resolve()
    if data == resolved or data.is_relative_to(resolved):
        return [("path", "The data directory, or one that it is in, cannot hold the sets: name a folder of its own.")]
    return []


def _wrong_endpoint(url: str) -> list[tuple[str, str]]:
    if not url:
        return []
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return [("endpoint_url", "An endpoint looks like https://s3.example.org or http://127.0.0.1:9000.")]
    if parts.username or parts.password:
        return [("endpoint_url", "Credentials do not belong in the endpoint: use the fields for the keys.")]
    if parts.query or parts.fragment or parts.path not in {"", "/"}:
        return [("endpoint_url", "Only scheme, host and port; the bucket has a field of its own.")]
    return []


def _local(target: StorageTarget) -> LocalStorage:
    root = local_root(target)
    if not Path(target.path).is_absolute():  # a folder of our own; any other must be there, or its disk is not
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    holds_sets = target.pk is not None and target.records.filter(state__in=("committed", "expiring")).exists()
    return LocalStorage(root, marked=holds_sets)
