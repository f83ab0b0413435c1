"""What a kind of source can do: be captured consistently, be drilled into scratch, be restored as a transaction.

One module per kind. ``tests/backups/contracts`` holds every kind to this. A kind imports no model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from controlplane.kernel.registry import Registry


@dataclass(frozen=True, slots=True)
class SettingField:
    """One setting of a kind, as the admin's form and the command line ask for it."""

    name: str
    label: str
    type: Literal["text", "lines", "integer", "flag", "url", "path", "choice", "secret"] = "text"
    help: str = ""
    required: bool = False
    default: Any = ""
    choices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check, an inspection or a drill saw. ``fail`` means: not what was expected."""

    status: Literal["pass", "warn", "fail"]
    detail: str


@dataclass(frozen=True)
class Captured:
    """What is known once a source has been read to its end.

    ``expectations`` is everything a drill compares with, exactly (JSON; may be large; stored encrypted);
    ``summary`` a few numbers for people (``{"tables": 12, "rows": 53412}``), stored in the clear.
    """

    expectations: Mapping[str, Any]
    summary: Mapping[str, Any]
    tools: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Capture(ABC):
    """One consistent reading of a source; a context manager that leaves nothing running or lying about."""

    @abstractmethod
    def __enter__(self) -> Capture: ...

    @abstractmethod
    def __exit__(self, *exc: object) -> None:
        """End everything: kill the producer's whole process group, close cursors, remove temporary files."""

    @abstractmethod
    def chunks(self) -> Iterator[bytes]:
        """The plain bytes, once, in chunks of at most 1 MiB."""

    @abstractmethod
    def finish(self) -> Captured:
        """After the last chunk: the producer's exit code and the expectations.

        Raises CaptureFailed where the producer failed, said nothing, or its output cannot be whole.
        """

    def interrupt(self) -> None:  # noqa: B027  (a source that never blocks has nothing to interrupt)
        """Called from another thread (cancel, stall): make a blocked ``chunks`` raise soon. Idempotent."""


@dataclass(frozen=True)
class Place:
    """Where a drill or restore may put things: ``path`` is an empty private directory, removed afterwards.

    ``token`` makes names beside the live ones unique to this restore (letters and digits, at most 12).
    """

    path: Path
    token: str


class Restorer(ABC):
    """One artifact on its way back, beside the running system until ``swap``. Every step may run twice, and may
    be finished by another process that has nothing but ``memory`` (JSON, written to the journal after each step).
    """

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}

    @abstractmethod
    def preflight(self, plain_bytes: int) -> list[Finding]:
        """Versions, extensions, rights, space: what would stop this restore. Changes nothing."""

    @abstractmethod
    def prepare(self, chunks: Iterator[bytes]) -> None:
        """Restore beside the live data. Begins anew each time: removes what an earlier try left."""

    @abstractmethod
    def validate(self, expectations: Mapping[str, Any]) -> list[Finding]:
        """Compare what stands beside with the expectations, exactly."""

    @abstractmethod
    def swap(self) -> None:
        """Put the restored data in the place of the live data, keeping the latter; as near to atomic as it gets."""

    @abstractmethod
    def undo(self) -> None:
        """Put the live data back, whether ``swap`` ran, ran half, or did not run."""

    @abstractmethod
    def discard(self) -> None:
        """After success or after undo: remove what stands beside. Idempotent."""


class Source(ABC):
    """One source, made of its settings and secrets by its kind."""

    kind: ClassVar[str]
    label: ClassVar[str]
    description: ClassVar[str]
    fields: ClassVar[tuple[SettingField, ...]]
    #: Whether it belongs to vectors, configuration, user data, databases or logs: the restore's options speak of these.
    group: ClassVar[Literal["vectors", "configuration", "userdata", "databases", "logs"]]
    #: File name that the plain bytes would have, and the stock command that reads them from standard input.
    file_name: ClassVar[str]

    def __init__(self, name: str, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        self.name, self.settings, self.secrets = name, settings, secrets

    @classmethod
    @abstractmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        """The settings with defaults filled in; Refused, naming the setting, where they make no sense."""

    @abstractmethod
    def check(self) -> list[Finding]:
        """ "Test connection": reach it, and say what would be captured. Never raises for a source that is away."""

    @abstractmethod
    def capture(self, *, now: datetime, scratch: Path) -> AbstractContextManager[Capture]:
        """Begin a consistent reading. ``scratch`` is a private directory for what cannot be streamed."""

    @abstractmethod
    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        """L2: read every plain byte, parse it without restoring, compare what can be (counts, digests)."""

    @abstractmethod
    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        """L3: restore into scratch (own servers, ended afterwards) and compare exactly. A ``fail`` names
        what is changed, missing or added. Raises Unavailable where the scratch server cannot be had.
        """

    @abstractmethod
    def restorer(self, place: Place) -> Restorer: ...

    def expected_bytes(self) -> int | None:
        """About how many plain bytes a capture will give, for the progress bar; None: no idea."""
        return None

    @classmethod
    @abstractmethod
    def stock_command(cls) -> str:
        """The end of the one-line restore: what the decrypted, decompressed stream is piped into."""


kinds: Registry[type[Source]] = Registry("kind of backup source")
