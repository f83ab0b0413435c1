"""Collections on their way back: new ones beside, then renames, each of which can be told from the server.

    before     name = old id     <name>__restore_<token> = new id
    swapped    name = new id     <name>__before_<token>  = old id

Chroma renames one collection at a time. A swap that stops half way has some collections in place and some not; going
on and going back both look at every collection's id first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from backups.errors import RestoreFailed
from controlplane.kernel.errors import Unavailable

from .base import Finding, Place, Restorer
from .chroma_client import Chroma, Server
from .chroma_load import Loaded, compare, load

LONGEST_NAME = 512


class ChromaRestorer(Restorer):
    def __init__(self, server: Server, place: Place) -> None:
        super().__init__()
        self._server, self._place = server, place

    def preflight(self, plain_bytes: int) -> list[Finding]:
        try:
            with Chroma(self._server) as chroma:
                version = chroma.version()
                there = chroma.collections() if chroma.has_database() else []
        except Unavailable as error:
            return [Finding("fail", str(error))]
        return [
            Finding("pass", f"Chroma {version} answers; it has {len(there)} collections."),
            Finding(
                "warn",
                "Restored collections get new UUIDs: clients that remember one must look it up by name again. "
                "Collections that are not in the set stay as they are.",
            ),
        ]

    def prepare(self, chunks: Iterator[bytes]) -> None:
        with Chroma(self._server) as chroma:
            chroma.make_database()
            self._remove(chroma, self._beside(""))
            live = {str(one["name"]): str(one["id"]) for one in chroma.collections()}
            collections: dict[str, Any] = {}
            for loaded in load(chroma, chunks, folder=self._place.path, named=self._beside):
                collections[loaded.name] = {**asdict(loaded), "old": live.get(loaded.name)}
            self.memory["collections"] = collections

    def validate(self, expectations: Mapping[str, Any]) -> list[Finding]:
        loaded = [
            Loaded(**{name: value for name, value in one.items() if name != "old"})
            for one in self.memory.get("collections", {}).values()
        ]
        with Chroma(self._server) as chroma:
            return compare(chroma, loaded, expectations, self._place.path)

    def swap(self) -> None:
        with Chroma(self._server) as chroma:
            names = _names(chroma)
            lost = [name for name, one in self.memory["collections"].items() if one["id"] not in names]
            if lost:
                raise RestoreFailed(
                    f"The restored collections {', '.join(lost)} are not there any more.", remedy="Restore them again."
                )
            for name, one in self.memory["collections"].items():
                if names[one["id"]] == name:
                    continue
                there = next((found for found, called in names.items() if called == name), None)
                if there is not None:
                    # Not always the one of before: it may have been made anew while this restore ran.
                    one["old"] = there
                    chroma.rename(there, self._kept(name))
                chroma.rename(one["id"], name)

    def undo(self) -> None:
        with Chroma(self._server) as chroma:
            names = _names(chroma)
            for name, one in self.memory.get("collections", {}).items():
                if names.get(one["id"]) == name:
                    chroma.rename(one["id"], self._beside(name))
                kept = next((found for found, called in names.items() if called == self._kept(name)), None)
                if kept is not None:
                    chroma.rename(kept, name)

    def discard(self) -> None:
        with Chroma(self._server) as chroma:
            self._remove(chroma, self._beside(""))
            self._remove(chroma, self._kept(""))

    def _beside(self, name: str) -> str:
        return _suffixed(name, f"__restore_{self._place.token}")

    def _kept(self, name: str) -> str:
        return _suffixed(name, f"__before_{self._place.token}")

    @staticmethod
    def _remove(chroma: Chroma, suffix: str) -> None:
        for one in chroma.collections():
            if str(one["name"]).endswith(suffix):
                chroma.delete(str(one["name"]))


def _names(chroma: Chroma) -> dict[str, str]:
    return {str(one["id"]): str(one["name"]) for one in chroma.collections()}


def _suffixed(name: str, suffix: str) -> str:
    return name[: LONGEST_NAME - len(suffix)] + suffix
