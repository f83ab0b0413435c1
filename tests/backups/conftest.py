"""The servers that tests of backups share; each is started once per run, when the first test asks for it."""

from __future__ import annotations

from tests.backups.servers.s3 import moto_server, rclone_server  # noqa: F401
