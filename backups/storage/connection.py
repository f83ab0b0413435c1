"""How a bucket is reached, as plain data; nothing here needs boto, which takes a third of a second to import."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Connection:
    """Where the bucket is and who asks. The secret is in no text that is made of this."""

    bucket: str
    region: str = "us-east-1"
    endpoint_url: str = ""
    path_style: bool = False
    checksum_mode: str = "when_required"
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
