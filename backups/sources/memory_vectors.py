"""A service's in-memory vectors: NDJSON from its export, put back by its import.

The plain bytes are the lines as the service sent them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from backups.errors import CaptureFailed, Damaged, RestoreFailed
from controlplane.kernel.errors import Refused, Unavailable, ZantaraError

from .base import Capture, Captured, Finding, Place, Restorer, SettingField, Source
from .chroma import clean_url
from .compare import differences, verdict
from .ndjson import lines
from .programs import Program, feed
from .scratch.redis import scratch_redis
from .vectors_http import Endpoint, Export, Reader, Tally, clean_endpoint, read, replace_all

SAMPLE = "examples.zantara"
#: The folder that the project's packages are in, where a child finds them.
_HERE = Path(__file__).resolve().parents[2]


class MemoryVectorsSource(Source):
    kind: ClassVar[str] = "memory_vectors"
    label: ClassVar[str] = "Vectors in a service's memory"
    description: ClassVar[str] = "What a service gives out as lines of JSON and takes back the same way."
    fields: ClassVar[tuple[SettingField, ...]] = (
        SettingField("url", "URL of the export", "url", help="http://host:3000/vectors/export", required=True),
        SettingField(
            "import_url",
            "URL of the import",
            "url",
            help="It must replace everything. Made of the export's where empty.",
        ),
        SettingField("token", "Bearer token", "secret", help="Or let one be issued for a role."),
        SettingField(
            "issue_token_for_role",
            "Issue a token for the role",
            help="A short-lived one, signed with this installation's secret. Only for services of your own.",
        ),
        SettingField(
            "ends_with_count",
            "The export ends with its number of records",
            "flag",
            default=True,
            help='A last line {"end": {"records": n}}. Without it a cut cannot always be told from the end.',
        ),
        SettingField(
            "drill_with",
            "Drill with",
            "choice",
            default="records",
            choices=(
                ("records", "the records, compared one by one"),
                ("sample", "the sample service's own store, loaded and read back"),
            ),
        ),
    )
    group: ClassVar = "vectors"
    file_name: ClassVar[str] = "vectors.ndjson"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        given = {name: str(settings.get(name) or "").strip() for name in ("url", "import_url", "issue_token_for_role")}
        given["url"] = clean_url("url", given["url"])
        given["import_url"] = clean_url("import_url", clean_endpoint(given["url"], given["import_url"]))
        if given["issue_token_for_role"] and secrets.get("token"):
            raise Refused("There are a token and a role to issue one for.", remedy="Keep one of the two.")
        drill_with = str(settings.get("drill_with") or "records")
        if drill_with not in {"records", "sample"}:
            raise Refused("The setting drill_with is wrong.", remedy="Choose records or sample.")
        ends = settings.get("ends_with_count")
        return {**given, "ends_with_count": True if ends is None else bool(ends), "drill_with": drill_with}

    @property
    def endpoint(self) -> Endpoint:
        settings = self.clean(self.settings, self.secrets)
        return Endpoint(
            url=settings["url"],
            import_url=settings["import_url"],
            ends_with_count=settings["ends_with_count"],
            role=settings["issue_token_for_role"],
            token=self.secrets.get("token", ""),
        )

    def check(self) -> list[Finding]:
        try:
            with Export(self.endpoint) as export:
                reader = Reader(needs_end=self.endpoint.ends_with_count)
                for line in lines(export.chunks()):
                    reader.take(line)
                count = reader.finish().count
        except ZantaraError as error:
            return [Finding("fail", str(error))]
        return [Finding("pass", f"The service gives out {count} records.")]

    def capture(self, *, now: datetime, scratch: Path) -> MemoryVectorsCapture:
        return MemoryVectorsCapture(self.endpoint)

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        return _compared(chunks, expectations, self.endpoint.ends_with_count, "are whole")

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        if self.clean(self.settings, self.secrets)["drill_with"] == "records":
            found = _compared(chunks, expectations, self.endpoint.ends_with_count, "are as they were, one by one")
            return [
                *found,
                Finding("warn", "Compared record by record; no copy of the service was there to load them."),
            ]
        if importlib.util.find_spec(SAMPLE) is None:
            raise Unavailable(
                "The sample service's code is not on this machine.", remedy="Let the source drill with the records."
            )
        place.path.mkdir(parents=True, exist_ok=True)
        with scratch_redis(place.path) as connect:
            with connect(0) as client:
                socket = client.connection_pool.connection_kwargs["path"]
            return self._through_the_sample(chunks, expectations, str(socket), place.path)

    def _through_the_sample(
        self, chunks: Iterator[bytes], expectations: Mapping[str, Any], socket: str, folder: Path
    ) -> list[Finding]:
        """Import with the sample's own code into a scratch Redis, export again, and compare that."""
        tally: list[Tally | Damaged] = []

        def take(output: Iterator[bytes]) -> None:
            try:
                tally.append(read(output, needs_end=True))
            except Damaged as error:
                tally.append(error)

        argv = [sys.executable, "-m", f"{SAMPLE}.reimport"]
        environ = {"ZANTARA_REDIS_URL": f"unix://{socket}?db=0", "ZANTARA_DATA_DIR": str(folder / "sample")}
        (folder / "sample").mkdir(exist_ok=True)
        with Program(argv, environ=environ, takes_input=True, cwd=_HERE) as program:
            code = feed(program, chunks, take)
            if code:
                return [Finding("fail", f"The sample service does not take these records: {program.complaint[-500:]}")]
        if not tally or isinstance(tally[0], Damaged):
            return [Finding("fail", f"What was loaded cannot be read back: {tally[0] if tally else 'nothing came'}")]
        return _findings(expectations, tally[0], "were loaded into a scratch store and read back as they were")

    def restorer(self, place: Place) -> MemoryVectorsRestorer:
        return MemoryVectorsRestorer(self.endpoint, place)

    @classmethod
    def stock_command(cls) -> str:
        return 'curl --fail -H "Authorization: Bearer $TOKEN" --data-binary @- "$SERVICE/vectors/import?mode=replace"'


class MemoryVectorsCapture(Capture):
    """The service's own export, read as it comes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._export = Export(endpoint)
        self._tally: Tally | None = None

    def __enter__(self) -> MemoryVectorsCapture:
        self._export.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._export.__exit__()

    def interrupt(self) -> None:
        self._export.interrupt()

    def chunks(self) -> Iterator[bytes]:
        reader = Reader(needs_end=self._endpoint.ends_with_count)
        passing: list[bytes] = []

        def tapped() -> Iterator[bytes]:
            for chunk in self._export.chunks():
                passing.append(chunk)
                yield chunk

        try:
            for line in lines(tapped()):
                reader.take(line)
                while passing:
                    yield passing.pop(0)
            yield from passing
            self._tally = reader.finish()
        except Damaged as error:
            raise CaptureFailed(f"The vectors could not be saved. {error.message}", remedy=error.remedy) from None

    def finish(self) -> Captured:
        if self._tally is None:
            raise CaptureFailed("The export did not come to its end.", remedy="Start the backup again.")
        return Captured(expectations=self._tally.as_json(), summary={"records": self._tally.count})


class MemoryVectorsRestorer(Restorer):
    """Nothing can stand beside in a service: what is restored waits in a file, and so does what it replaces."""

    def __init__(self, endpoint: Endpoint, place: Place) -> None:
        super().__init__()
        self._endpoint, self._place = endpoint, place
        self._new, self._before = place.path / "restored.ndjson", place.path / "before.ndjson"

    def preflight(self, plain_bytes: int) -> list[Finding]:
        try:
            with Export(self._endpoint):
                pass
        except ZantaraError as error:
            return [Finding("fail", str(error))]
        return [
            Finding("pass", "The service answers."),
            Finding("warn", "What is added to the service between the swap and an undo is lost by the undo."),
        ]

    def prepare(self, chunks: Iterator[bytes]) -> None:
        self._before.unlink(missing_ok=True)
        self.memory["count"] = _save(chunks, self._new, needs_end=self._endpoint.ends_with_count)

    def validate(self, expectations: Mapping[str, Any]) -> list[Finding]:
        with self._new.open("rb") as file:
            chunks = iter(lambda: file.read(2**20), b"")
            return _compared(chunks, expectations, self._endpoint.ends_with_count, "wait to be imported")

    def swap(self) -> None:
        if not self._new.exists():
            raise RestoreFailed("The records to be restored are not there any more.", remedy="Restore them again.")
        if not self._before.exists():
            with Export(self._endpoint) as export:
                # In place once it is whole: then a second try knows that this is the state of before.
                _save(export.chunks(), self._before, needs_end=self._endpoint.ends_with_count)
        replace_all(self._endpoint, self._new, int(self.memory["count"]))

    def undo(self) -> None:
        if self._before.exists():
            with self._before.open("rb") as file:
                chunks = iter(lambda: file.read(2**20), b"")
                count = read(chunks, needs_end=self._endpoint.ends_with_count).count
            replace_all(self._endpoint, self._before, count)
            self._before.unlink()

    def discard(self) -> None:
        for file in (self._new, self._before):
            file.unlink(missing_ok=True)


def _save(chunks: Iterator[bytes], path: Path, *, needs_end: bool) -> int:
    """Write an export into a file that is there only whole; returns the number of its records."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            partial.chmod(0o600)

            def written() -> Iterator[bytes]:
                for chunk in chunks:
                    file.write(chunk)
                    yield chunk

            count = read(written(), needs_end=needs_end).count
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _compared(chunks: Iterator[bytes], expectations: Mapping[str, Any], needs_end: bool, well: str) -> list[Finding]:
    try:
        return _findings(expectations, read(chunks, needs_end=needs_end), well)
    except Damaged as error:
        return [Finding("fail", str(error))]


def _findings(expectations: Mapping[str, Any], found: Tally, well: str) -> list[Finding]:
    problems = differences("Record", expectations["records"], found.digests)
    return verdict(problems, f"{expectations['count']} records {well}.")
