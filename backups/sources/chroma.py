"""Chroma: every collection of one database by its HTTP API, while others add and delete.

The plain bytes are the NDJSON that ``chroma_format`` describes. Files of a running Chroma are never copied: measured,
every second hot copy was broken, and a count did not show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from backups.errors import Damaged
from controlplane.kernel.errors import Refused, Unavailable

from .base import Finding, Place, SettingField, Source
from .chroma_client import Chroma, Server
from .chroma_export import ChromaCapture, require_database, to_save
from .chroma_load import compare, differences, load, tallies
from .chroma_restorer import ChromaRestorer
from .scratch.chroma import scratch_chroma

#: Needs nothing but Python. One record a request: slow, and good enough for the day when nothing else is left.
_STOCK_COMMAND = (
    "python3 -c 'import json, sys, urllib.request as r; "
    'B = sys.argv[1] + "/api/v2/tenants/default_tenant/databases/default_database/collections"; '
    "post = lambda path, body: json.load(r.urlopen(r.Request(B + path, json.dumps(body).encode(), "
    '{"Content-Type": "application/json"}))); C = {}; '
    '[C.update(post("", {"name": l["collection"]["name"], "metadata": l["collection"]["metadata"], "configuration": '
    '{k: v for k, v in l["collection"]["configuration_json"].items() if v}})) if "collection" in l else '
    'post("/" + C["id"] + "/upsert", {"ids": [l["id"]], "embeddings": [l["embedding"]], "documents": [l["document"]], '
    '"metadatas": [l["metadata"]], "uris": [l["uri"]]}) for l in map(json.loads, sys.stdin) '
    'if "collection" in l or "id" in l]\' http://HOST:8000'
)
TOKEN_HEADERS = ("Authorization", "X-Chroma-Token")


class ChromaSource(Source):
    kind: ClassVar[str] = "chroma"
    label: ClassVar[str] = "Chroma vector store"
    description: ClassVar[str] = "Every collection of one Chroma database: ids, documents, metadata, vectors, settings."
    fields: ClassVar[tuple[SettingField, ...]] = (
        SettingField("url", "URL", "url", help="http://host:8000", required=True),
        SettingField("tenant", "Tenant", default="default_tenant"),
        SettingField("database", "Database", default="default_database"),
        SettingField("token", "Token", "secret", help="Where the server asks for one."),
        SettingField(
            "token_header",
            "Header of the token",
            "choice",
            default=TOKEN_HEADERS[0],
            choices=tuple((name, name) for name in TOKEN_HEADERS),
        ),
    )
    group: ClassVar = "vectors"
    file_name: ClassVar[str] = "collections.ndjson"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        cleaned = {
            field.name: str(settings.get(field.name) or field.default).strip()
            for field in cls.fields
            if field.type != "secret"
        }
        cleaned["url"] = clean_url("url", cleaned["url"]).rstrip("/")
        if cleaned["token_header"] not in TOKEN_HEADERS:
            raise Refused("The setting token_header is wrong.", remedy=f"Choose {' or '.join(TOKEN_HEADERS)}.")
        return cleaned

    def server(self) -> Server:
        return Server(**self.clean(self.settings, self.secrets), token=self.secrets.get("token", ""))

    def check(self) -> list[Finding]:
        try:
            with Chroma(self.server()) as chroma:
                require_database(chroma)
                collections = to_save(chroma, lambda _: None)
                records = sum(chroma.count(str(one["id"])) for one in collections)
                version = chroma.version()
        except Unavailable as error:
            return [Finding("fail", str(error))]
        found = Finding("pass", f"Chroma {version}: {len(collections)} collections with {records} records.")
        return [found] if collections else [found, Finding("warn", "There is no collection yet.")]

    def expected_bytes(self) -> int | None:
        try:
            with Chroma(self.server()) as chroma:
                sizes = [
                    chroma.count(str(one["id"])) * (int(one.get("dimension") or 0) * 16 // 3 + 500)
                    for one in to_save(chroma, lambda _: None)
                ]
        except Unavailable:
            return None
        return sum(sizes) or None

    def capture(self, *, now: datetime, scratch: Path) -> ChromaCapture:
        return ChromaCapture(self.server())

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        try:
            found = tallies(chunks)
        except Damaged as error:
            return [Finding("fail", str(error))]
        wanted = expectations["collections"]
        findings = [Finding("fail", f"Collection {name} is missing.") for name in wanted if name not in found]
        findings += [Finding("fail", f"Collection {name} was not expected.") for name in found if name not in wanted]
        for name in sorted(set(wanted) & set(found)):
            findings += differences(f"Collection {name}", wanted[name], found[name])
        records = sum(one["count"] for one in wanted.values())
        return findings or [Finding("pass", f"{len(wanted)} collections with {records} records are whole.")]

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        place.path.mkdir(parents=True, exist_ok=True)
        with scratch_chroma(place.path) as server, Chroma(server) as chroma:
            try:
                loaded = list(load(chroma, chunks, folder=place.path))
            except Damaged as error:
                return [Finding("fail", str(error))]
            return compare(chroma, loaded, expectations, place.path)

    def restorer(self, place: Place) -> ChromaRestorer:
        return ChromaRestorer(self.server(), place)

    @classmethod
    def stock_command(cls) -> str:
        return _STOCK_COMMAND


def clean_url(setting: str, url: str) -> str:
    """An http or https URL without credentials in it; Refused otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Refused(f"The setting {setting} is no URL.", remedy="Write http://host:port.")
    if parts.username or parts.password:
        raise Refused(f"The setting {setting} holds a password.", remedy="Put it into the field for the token.")
    return url
