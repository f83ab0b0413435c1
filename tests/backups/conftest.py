"""The servers that tests of backups share; each is started once per run, when the first test asks for it."""

from __future__ import annotations

from tests.backups.servers.chroma import _chroma_server, chroma_server  # noqa: F401
from tests.backups.servers.postgres import postgres_database, postgres_server  # noqa: F401
from tests.backups.servers.s3 import moto_server, rclone_server  # noqa: F401
from tests.backups.servers.sample import _sample_service, sample_service  # noqa: F401
