"""Chroma's HTTP API (v2), as backups need it: whole collections, page by page."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from controlplane.kernel.errors import Unavailable
from controlplane.monitoring.metrics import vector_operation

REQUEST_SECONDS = 120.0
CONNECT_SECONDS = 5.0
#: The server refuses bodies above 40 MB; half of that leaves room for the rest of a request.
MOST_BODY_BYTES = 20 * 10**6
LIST_PAGE = 500
#: What the server says when a record is deleted while it is being read (seen with 1.5.9), and how often it is asked
#: again: eight times in about a second.
LOST_RECORD = b"Error finding id"
LOST_RECORD_WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.2, 0.4)
EVERYTHING = ["documents", "metadatas", "embeddings", "uris"]
_REMEDY = "See that Chroma runs, and that its URL, tenant, database and token are right."


class CollectionGone(Unavailable):
    """The collection is not there (any more)."""


class NameTaken(Unavailable):
    """Another collection has this name."""


@dataclass(frozen=True)
class Server:
    """Where a Chroma is, and which of its databases is meant."""

    url: str
    tenant: str = "default_tenant"
    database: str = "default_database"
    token: str = ""
    token_header: str = "Authorization"  # noqa: S105  (a header's name)


class Chroma:
    """One database of a server. A context manager; every method raises Unavailable where nothing answers."""

    def __init__(self, server: Server) -> None:
        self.server = server
        headers = {}
        if server.token:
            bearer = server.token_header.lower() == "authorization"
            headers[server.token_header] = f"Bearer {server.token}" if bearer else server.token
        # trust_env off: a proxy of the environment has no business between two servers of one network.
        self._http = httpx2.Client(
            base_url=server.url.rstrip("/") + "/api/v2",
            headers=headers,
            trust_env=False,
            # where nothing is encrypted no certificates are read: that takes 50 ms
            verify=not server.url.lower().startswith("http:"),
            timeout=httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS),
        )
        self._sockets: list[socket.socket] = []
        self._database = f"/tenants/{quote(server.tenant, safe='')}/databases/{quote(server.database, safe='')}"
        self._collections = f"{self._database}/collections"

    def __enter__(self) -> Chroma:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def abort(self) -> None:
        """From another thread: end every request that is under way; it raises Unavailable."""
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._sockets.append(info["return_value"].get_extra_info("socket"))

    # ── the server ───────────────────────────────────────────────────────────────────────────────────────────────

    def version(self) -> str:
        return str(self._json("GET", "/version"))

    def limits(self) -> tuple[int, bool]:
        """The most records of one request, and whether vectors may be sent as base64."""
        answer = self._json("GET", "/pre-flight-checks")
        return int(answer.get("max_batch_size") or 100), bool(answer.get("supports_base64_encoding"))

    def has_database(self) -> bool:
        """A database that is not there lists as an empty one, so it has to be asked for."""
        return self._answer("GET", self._database).status_code == 200

    def make_database(self) -> None:
        """Make tenant and database where they are missing."""
        if self.has_database():
            return
        for path, name in (("/tenants", self.server.tenant), (self._database.rsplit("/", 1)[0], self.server.database)):
            self._answer("POST", path, {"name": name})
        if not self.has_database():
            raise Unavailable(f"The database {self.server.database} could not be made in Chroma.", remedy=_REMEDY)

    # ── collections ──────────────────────────────────────────────────────────────────────────────────────────────

    def collections(self) -> list[dict[str, Any]]:
        """Every collection, sorted by name."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            page = self._json("GET", f"{self._collections}?limit={LIST_PAGE}&offset={len(found)}")
            before = len(found)
            found.update((one["id"], one) for one in page)
            if len(page) < LIST_PAGE or len(found) == before:
                return sorted(found.values(), key=lambda one: str(one["name"]))

    def create(self, head: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A collection with the settings of ``head``. Newer servers take the whole schema, older ones the
        configuration only; NameTaken where there is one of this name.
        """
        body = {"name": name, "metadata": head.get("metadata")}
        configuration = {k: v for k, v in (head.get("configuration_json") or {}).items() if v is not None}
        if head.get("schema"):
            answer = self._answer("POST", self._collections, {**body, "schema": head["schema"]})
            if answer.status_code == 200 and answer.json()["configuration_json"] == head["configuration_json"]:
                return dict(answer.json())
            if answer.status_code == 200:
                self.delete(name)
        answer = self._answer("POST", self._collections, {**body, "configuration": configuration})
        if answer.status_code == 409:
            raise NameTaken(f"There is a collection {name} already.", remedy="Remove or rename it.")
        return dict(self._checked(answer))

    def delete(self, name: str) -> None:
        """Delete by name (ids are not taken); one that is not there is fine."""
        answer = self._answer("DELETE", f"{self._collections}/{quote(name, safe='')}")
        if answer.status_code != 404:
            self._checked(answer)

    def rename(self, collection_id: str, name: str) -> None:
        self._checked(self._answer("PUT", f"{self._collections}/{collection_id}", {"new_name": name}))

    # ── records ──────────────────────────────────────────────────────────────────────────────────────────────────

    def count(self, collection_id: str) -> int:
        return int(self._json("GET", f"{self._collections}/{collection_id}/count"))

    @vector_operation("get", "chroma")
    def page(self, collection_id: str, *, offset: int, limit: int) -> bytes:
        """Records in the order of their addition, as the server's JSON; parsed elsewhere, while the next is read."""
        body = {"offset": offset, "limit": limit, "include": EVERYTHING}
        return self._records(collection_id, body)

    @vector_operation("get", "chroma")
    def get(self, collection_id: str, ids: Sequence[str]) -> bytes:
        body = {"ids": list(ids), "include": EVERYTHING}
        return self._records(collection_id, body)

    def _records(self, collection_id: str, body: Mapping[str, Any]) -> bytes:
        """Read records, again where the server lost one of them between looking up its id and its vector: it answers
        500 then, because another client deleted that record in between.
        """
        for seconds in (*LOST_RECORD_WAITS, None):
            answer = self._answer("POST", f"{self._collections}/{collection_id}/get", body)
            if seconds is None or answer.status_code != 500 or LOST_RECORD not in answer.content:
                break
            time.sleep(seconds)
        return self._checked_bytes(answer)

    @vector_operation("upsert", "chroma")
    def upsert(self, collection_id: str, body: bytes) -> None:
        """Add or replace the records of a body that is JSON already."""
        self._checked(self._answer("POST", f"{self._collections}/{collection_id}/upsert", body))

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None) -> httpx2.Response:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            return self._http.request(
                method,
                path,
                content=content,
                headers={"Content-Type": "application/json"} if content else None,
                extensions={"trace": self._trace},
            )
        except httpx2.HTTPError as error:
            raise Unavailable(f"Chroma did not answer ({type(error).__name__}).", remedy=_REMEDY) from None

    def _checked_bytes(self, answer: httpx2.Response) -> bytes:
        if answer.status_code == 404:
            raise CollectionGone("The collection is not there.", remedy="It was deleted meanwhile: try again.")
        if answer.status_code >= 400:
            raise Unavailable(f"Chroma answered {answer.status_code}: {answer.text[:200]}", remedy=_REMEDY)
        return answer.content

    def _checked(self, answer: httpx2.Response) -> Any:
        content = self._checked_bytes(answer)
        try:
            return json.loads(content)
        except ValueError:
            raise Unavailable("What answers for Chroma sends no JSON.", remedy=_REMEDY) from None

    def _json(self, method: str, path: str) -> Any:
        return self._checked(self._answer(method, path))
