"""The one line that restores an artifact with stock tools: when this machine, and this program, are gone.

It needs a shell with ``pipefail`` (bash, zsh), `age`, `zstd`, the program that reads the plain bytes, the recovery
key in ``recovery_key.txt``, and for S3 `curl` 7.75 or newer with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from backups.manifest import ManifestArtifact
from backups.models import Artifact, BackupRecord, StorageTarget
from backups.sources.base import kinds
from backups.storage.targets import local_root
from backups.stream import Part, part_name

KEY_FILE = "recovery_key.txt"


def line_for(artifact: Artifact | ManifestArtifact, record: BackupRecord) -> str:
    """The line for one artifact of a committed record. Holds no secret."""
    return line(artifact, record.target, f"{record.prefix}/{artifact.name}")


def line(artifact: Artifact | ManifestArtifact, target: StorageTarget, folder: str) -> str:
    """The line for the artifact whose parts are in ``folder`` of the target."""
    steps = [_read(artifact.parts, target, folder), f"age --decrypt --identity {KEY_FILE}"]
    if artifact.compressed:
        steps.append("zstd --decompress --stdout")
    steps.append(_stock_command(artifact.kind))
    return f"set -o pipefail; {' | '.join(steps)}"


def expectations_line(artifact: Artifact | ManifestArtifact, target: StorageTarget, folder: str) -> str:
    """The line that shows what the artifact should hold: counts and hashes as JSON."""
    name = artifact.expectations["object"]
    read = f"cat {_path(target, folder)}/{name}" if _is_local(target) else _curl(target, f"{folder}/{name}")
    return f"set -o pipefail; {read} | age --decrypt --identity {KEY_FILE} | zstd --decompress --stdout"


def _stock_command(kind: str) -> str:
    # A set of a kind that this version does not know is still bytes.
    return kinds.get(kind).stock_command() if kind in kinds else "cat > restored"


def _read(parts: Sequence[Part | dict[str, Any]], target: StorageTarget, folder: str) -> str:
    """Parts in their order: the shell's ``*`` sorts as the numbers of five digits count, and so does curl's range."""
    many = len(parts) > 1
    if _is_local(target):
        return f"cat {_path(target, folder)}/{'part-*.age' if many else part_name(1)}"
    return _curl(target, f"{folder}/{f'part-[00001-{len(parts):05d}].age' if many else part_name(1)}")


def _is_local(target: StorageTarget) -> bool:
    return target.kind == StorageTarget.Kind.LOCAL


def _path(target: StorageTarget, folder: str) -> str:
    return shlex.quote(str(local_root(target) / folder))


def _curl(target: StorageTarget, key: str) -> str:
    prefix = target.prefix.strip("/")
    url = f"{_bucket_url(target)}/{f'{prefix}/' if prefix else ''}{key}"
    return (
        f"curl --silent --show-error --fail --fail-early --aws-sigv4 {shlex.quote(f'aws:amz:{target.region}:s3')} "
        '--user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" '
        f"--header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' {shlex.quote(url)}"
    )


def _bucket_url(target: StorageTarget) -> str:
    if not target.endpoint_url:
        return (
            f"https://s3.{target.region}.amazonaws.com/{target.bucket}"
            if target.path_style
            else f"https://{target.bucket}.s3.{target.region}.amazonaws.com"
        )
    endpoint = target.endpoint_url.rstrip("/")
    if target.path_style or "." in target.bucket:
        return f"{endpoint}/{target.bucket}"
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{target.bucket}.{parts.netloc}"
