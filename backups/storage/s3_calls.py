"""Calls to an S3 server: the client that django-storages configures, patience with failures, errors in our words."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from botocore import exceptions as told_by_boto
from botocore.config import Config
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from backups.errors import ObjectMissing, StorageRefused, StorageUnavailable
from controlplane.kernel.errors import ZantaraError
from controlplane.kernel.logs import MASK, redact_text

from .connection import Connection

T = TypeVar("T")

#: Answers that another try may turn into success, whatever their status (``BadDigest``: damaged on the way).
_PASSING = frozenset({
    "BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestThrottled", "RequestTimeout",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
    "XAmzContentChecksumMismatch",
})  # fmt: skip
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
#: Everything a broken connection or an unreadable answer can look like.
BROKEN = (
    told_by_boto.HTTPClientError, told_by_boto.ConnectionError, told_by_boto.IncompleteReadError,
    told_by_boto.ChecksumError, ResponseParserError, HTTPError, OSError,
)  # fmt: skip
#: Everything that a call may raise.
FAILURES = (told_by_boto.ClientError, told_by_boto.BotoCoreError, ResponseParserError, HTTPError, OSError, ValueError)

_REMEDIES = {
    "InvalidAccessKeyId": "The server does not know this access key: enter the right one in the storage target.",
    "SignatureDoesNotMatch": "The secret key (or the region) is wrong: enter it again in the storage target.",
    "AuthorizationHeaderMalformed": "The region is wrong: set the bucket's region in the storage target.",
    "PermanentRedirect": "The bucket is in another region: set its region (and endpoint) in the storage target.",
    "NoSuchBucket": "Create the bucket, or correct its name in the storage target.",
    "RequestTimeTooSkewed": "This machine's clock is wrong: set it, for example with NTP.",
    "QuotaExceeded": "The store is full: enlarge it, or let the plan keep less.",
    "EntityTooLarge": "The server takes no object of this size.",
}


@dataclass(frozen=True)
class Patience:
    """How long a failing server is borne with: tries, and waits between them that double, each with full jitter."""

    attempts: int = 8
    first_wait_seconds: float = 0.2
    longest_wait_seconds: float = 10.0
    connect_seconds: float = 10.0
    read_seconds: float = 60.0

    def wait_seconds(self, failures: int) -> float:
        """A random wait after so many failures in a row."""
        longest = min(self.longest_wait_seconds, self.first_wait_seconds * 2.0 ** (failures - 1))
        return random.uniform(0, longest)  # noqa: S311  (spreads load; guards nothing)


#: For a person who waits for the answer, and for clearing up after a failure.
BRIEF = Patience(attempts=2, first_wait_seconds=0.1)


def client_for(connection: Connection, patience: Patience) -> tuple[Any, dict[str, Any]]:
    """The client of this process for a connection; making one takes up to a second, and threads may share it."""
    return _made(replace(connection, bucket=""), patience, os.getpid())


@lru_cache(maxsize=8)
def _made(connection: Connection, patience: Patience, process: int) -> tuple[Any, dict[str, Any]]:
    del process  # part of the key: a forked child must not use its parent's connections
    return make_client(connection, patience)


def make_client(connection: Connection, patience: Patience) -> tuple[Any, dict[str, Any]]:
    """The boto3 client that django-storages' S3 backend makes, and what it puts to every object it writes.

    The backend reads the project's other ``AWS_*`` settings itself (proxies, certificates, storage class,
    encryption). Without a key in the target boto3's own chain is asked: environment, files, the machine's role.
    """
    from storages.backends.s3 import S3Storage as Backend

    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if connection.path_style else "auto"},
        request_checksum_calculation=connection.checksum_mode,
        response_checksum_validation=connection.checksum_mode,
        retries={"mode": "standard", "total_max_attempts": 1},  # ours can be interrupted
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.read_seconds,
        max_pool_connections=16,
        tcp_keepalive=True,
    )
    options: dict[str, Any] = {
        "region_name": connection.region or None,
        "endpoint_url": connection.endpoint_url or None,
        "location": "",
        "client_config": config,
    }
    if connection.access_key_id:  # a session token or profile of the environment belongs to another key
        options |= {
            "access_key": connection.access_key_id,
            "secret_key": connection.secret_access_key,
            "security_token": None,
            "session_profile": None,
        }
    backend = Backend(**options)
    parameters = dict(backend.get_object_parameters(""))
    if backend.default_acl:
        parameters.setdefault("ACL", backend.default_acl)
    return backend.connection.meta.client, parameters


class Calls:
    """Calls one server with patience. Threads may share it."""

    def __init__(self, connection: Connection, patience: Patience) -> None:
        self._connection, self._patience = connection, patience

    def call(self, what: str, act: Callable[[], T], *, stop: threading.Event | None = None) -> T:
        """``act()``, again after failures that may pass. Raises our errors; StorageUnavailable as soon as ``stop``."""
        stop = stop or threading.Event()
        failures = 0
        while True:
            if stop.is_set():
                raise given_up(what)
            try:
                return act()
            except FAILURES as error:
                failures += 1
                if failures >= self._patience.attempts or not may_pass(error):
                    raise self.told(error, what, failures) from error
            stop.wait(self._patience.wait_seconds(failures))

    def told(self, error: BaseException, what: str, failures: int = 1) -> ZantaraError:
        """The failure in our words, without any credential."""
        where = self._connection.endpoint_url or "S3"
        tries = f" after {failures} tries" if failures > 1 else ""
        if not isinstance(error, told_by_boto.ClientError):
            return self._no_answer(error, f"{what}: {where}", tries)
        code, status = code_of(error), status_of(error)
        said = self._plain(str(error.response.get("Error", {}).get("Message", "")))
        text = f"{what}: {where} answered {status} {code}{tries}" + (f" ({said})." if said else ".")
        if may_pass(error):
            return StorageUnavailable(text, remedy="See the server's state and log; it will be tried again.")
        if code in {"NoSuchKey", "NoSuchUpload"}:
            return ObjectMissing(text, remedy="See whether it was deleted or a lifecycle rule removed it.")
        remedy = _REMEDIES.get(code, "")
        if not remedy and status in {401, 403}:
            remedy = "The key may not do this: let it list the bucket, and read, write and delete in it."
        return StorageRefused(text, remedy=remedy or "See the server's log for why it refused.")

    def _no_answer(self, error: BaseException, what: str, tries: str) -> ZantaraError:
        reason = self._plain(str(error)) or type(error).__name__
        if isinstance(error, told_by_boto.SSLError):
            remedy = "Check the endpoint's certificate; AWS_CA_BUNDLE names a file of certificates to trust."
            return StorageUnavailable(f"{what} has no certificate that is trusted ({reason}).", remedy=remedy)
        if isinstance(error, BROKEN):
            return StorageUnavailable(
                f"{what} did not answer{tries} ({reason}).", remedy="Check the endpoint, the network and the server."
            )
        if isinstance(error, told_by_boto.NoCredentialsError | told_by_boto.PartialCredentialsError):
            remedy = "Enter access key and secret key in the storage target, or give this machine a role."
            return StorageRefused(f"{what} was not asked: there are no credentials.", remedy=remedy)
        return StorageRefused(f"{what} could not be asked ({reason}).", remedy="Correct the storage target's settings.")

    def _plain(self, text: str) -> str:
        for secret in (self._connection.secret_access_key, self._connection.access_key_id):
            if secret:
                text = text.replace(secret, MASK)
        return redact_text(text).strip().rstrip(".")[:500]

    def wait_seconds(self, failures: int) -> float | None:
        """How long to wait after so many failures in a row; None: long enough."""
        return None if failures >= self._patience.attempts else self._patience.wait_seconds(failures)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(error, told_by_boto.ClientError):
        return code_of(error) in _PASSING or status_of(error) in _PASSING_STATUS
    return isinstance(error, BROKEN) and not isinstance(error, told_by_boto.SSLError)


def code_of(error: told_by_boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: told_by_boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def given_up(what: str) -> StorageUnavailable:
    return StorageUnavailable(f"{what}: completed, given up or failed before.", remedy="Begin it anew.")
