"""A service's own export and import of its vectors: NDJSON over HTTP, with a bearer token.

    GET  <url>?end=count      {"id": …, …} a line each, then {"end": {"records": 2}}
    POST <import url>         the same lines; replaces everything, wholly or not at all

A service that breaks off says so in a last line ``{"error": "…"}``. The line with the count makes the end certain: the
end of an HTTP body alone does not, as servers end it like a whole one when the program behind them failed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import httpx2

from backups.errors import CaptureFailed, Damaged
from controlplane.identity import tokens
from controlplane.kernel.errors import Refused, Unavailable
from controlplane.monitoring.metrics import vector_operation

from .ndjson import compact, lines, parsed

READ_SECONDS = 60.0
#: An import answers when all is in place.
IMPORT_SECONDS = 600.0
TOKEN_SECONDS = 900
SUBJECT = "zantara-backup"
CHUNK_BYTES = 2**20
_MODULUS = 2**128
_REMEDY = "See that the service runs, that the URL is right, and that the token's role may read and write all vectors."


@dataclass
class Tally:
    """Number and digest of records; the digest (a sum of BLAKE2b) does not depend on their order."""

    count: int = 0
    total: int = 0
    #: By record, so that a drill can name what is changed, missing or added.
    digests: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "digest": f"{self.total:032x}", "records": self.digests}


class Reader:
    """Takes an export line by line, and knows at its end whether it was whole."""

    def __init__(self, *, needs_end: bool) -> None:
        self._needs_end = needs_end
        self.tally = Tally()
        self._number = 0
        self._ended = False

    def take(self, line: bytes) -> None:
        """Damaged where the line is no record, says that the export broke off, or comes after the end."""
        self._number += 1
        if not line.strip():
            return
        if self._ended:
            raise Damaged(f"Line {self._number} comes after the end.", remedy="See what the service sends.")
        value = parsed(line, self._number)
        record_id = value.get("id")
        if "error" in value and record_id is None:
            raise Damaged(f"The service broke off: {str(value['error'])[:300]}", remedy="Start the backup again.")
        if "end" in value and record_id is None:
            self._end(value["end"])
            return
        if not isinstance(record_id, str) or record_id in self.tally.digests:
            why = "comes twice" if isinstance(record_id, str) else "is missing"
            raise Damaged(f"Line {self._number}: its id {why}.", remedy="See what the service sends.")
        digest = blake2b(compact(value), digest_size=16).hexdigest()
        self.tally.digests[record_id] = digest
        self.tally.count += 1
        self.tally.total = (self.tally.total + int(digest, 16)) % _MODULUS

    def finish(self) -> Tally:
        if self._needs_end and not self._ended:
            raise Damaged(
                "The export has no line with the number of its records at its end: it may be cut off.",
                remedy='Let the service end it with {"end": {"records": n}}, or turn the setting ends_with_count off.',
            )
        return self.tally

    def _end(self, value: Any) -> None:
        if not isinstance(value, dict) or value.get("records") != self.tally.count:
            raise Damaged(
                f"The service says that it sent {value}, and {self.tally.count} records came.",
                remedy="Start the backup again.",
            )
        self._ended = True


def read(chunks: Iterable[bytes], *, needs_end: bool) -> Tally:
    """Read an export to its end; Damaged where it is not whole."""
    reader = Reader(needs_end=needs_end)
    for line in lines(chunks):
        reader.take(line)
    return reader.finish()


@dataclass(frozen=True)
class Endpoint:
    """Where a service gives out its vectors and takes them back. The token is asked for anew for each request."""

    url: str
    import_url: str
    ends_with_count: bool
    role: str = ""
    token: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        headers = {"Accept": "application/x-ndjson", "Accept-Encoding": "identity"}
        token = tokens.issue(SUBJECT, self.role, TOKEN_SECONDS) if self.role else self.token
        return {**headers, "Authorization": f"Bearer {token}"} if token else headers

    @property
    def export_url(self) -> httpx2.URL:
        url = httpx2.URL(self.url)
        return url.copy_merge_params({"end": "count"}) if self.ends_with_count else url


class Export:
    """One export under way. A context manager; CaptureFailed where the service does not begin it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._sockets: list[socket.socket] = []
        self._http = _client(endpoint.url)
        self._stopped = False

    @vector_operation("export", "service")
    def __enter__(self) -> Export:
        try:
            request = self._http.build_request(
                "GET",
                self._endpoint.export_url,
                headers=self._endpoint.headers(),
                extensions={"trace": self._trace, "timeout": _timeout(READ_SECONDS).as_dict()},
            )
            self._response = self._http.send(request, stream=True)
        except httpx2.HTTPError as error:
            self._http.close()
            raise Unavailable(
                f"{self._endpoint.url} did not answer ({type(error).__name__}).", remedy=_REMEDY
            ) from None
        except BaseException:
            self._http.close()
            raise
        if self._response.status_code != 200:
            why = _told(self._response)
            self.__exit__()
            raise Unavailable(f"{self._endpoint.url} answered {why}", remedy=_REMEDY)
        return self

    def __exit__(self, *exc: object) -> None:
        self._response.close()
        self._http.close()

    def interrupt(self) -> None:
        self._stopped = True
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def chunks(self) -> Iterator[bytes]:
        """The body; CaptureFailed where it breaks off."""
        try:
            yield from self._response.iter_raw(CHUNK_BYTES)
        except httpx2.HTTPError as error:
            why = "It was stopped" if self._stopped else f"The connection broke off ({type(error).__name__})"
            raise CaptureFailed(f"{why} before the export's end.", remedy="Start the backup again.") from None
        if self._stopped:
            raise CaptureFailed("The export was stopped before its end.", remedy="Start the backup again.")

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._sockets.append(info["return_value"].get_extra_info("socket"))


@vector_operation("import", "service")
def replace_all(endpoint: Endpoint, file: Path, count: int) -> None:
    """Give the service this file instead of what it has; Unavailable where it does not take it."""
    headers = {**endpoint.headers(), "Content-Type": "application/x-ndjson"}
    headers["Content-Length"] = str(file.stat().st_size)
    try:
        with _client(endpoint.import_url) as http, file.open("rb") as body:
            answer = http.post(
                endpoint.import_url,
                content=iter(lambda: body.read(CHUNK_BYTES), b""),
                headers=headers,
                timeout=_timeout(IMPORT_SECONDS),
            )
    except httpx2.HTTPError as error:
        raise Unavailable(
            f"{endpoint.import_url} did not answer ({type(error).__name__}); whether it imported is not known.",
            remedy=_REMEDY,
        ) from None
    if answer.status_code >= 300:
        raise Unavailable(f"{endpoint.import_url} answered {_told(answer)}", remedy=_REMEDY)
    with suppress(ValueError):
        said = answer.json()
        imported = said.get("imported") if isinstance(said, dict) else None
        if isinstance(imported, int) and imported != count:
            raise Unavailable(f"The service imported {imported} of {count} records.", remedy="See the service's log.")


def clean_endpoint(url: str, import_url: str) -> str:
    """The import URL: as it is given, or made of an export's; Refused where neither goes."""
    if import_url:
        return import_url
    head, found, tail = url.rpartition("/export")
    if not found:
        raise Refused("The setting import_url is missing.", remedy="Say where the service takes vectors back.")
    return f"{head}/import{tail}{'&' if '?' in tail else '?'}mode=replace"


def _client(url: str) -> httpx2.Client:
    # trust_env off: a proxy of the environment has no business between two services of one network. Where nothing is
    # encrypted no certificates are read: that takes 50 ms.
    return httpx2.Client(trust_env=False, verify=not url.lower().startswith("http:"), follow_redirects=False)


def _timeout(seconds: float) -> httpx2.Timeout:
    return httpx2.Timeout(seconds, connect=5.0)


def _told(answer: httpx2.Response) -> str:
    with suppress(httpx2.HTTPError):
        answer.read()
        return f"{answer.status_code}: {answer.text[:200]}"
    return str(answer.status_code)
