"""Rows that people made: users, groups, role profiles, or any models named by their labels.

Password hashes are among them, so this is only ever stored encrypted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import django
from django.db import DatabaseError, connection, transaction
from django.db.models import Model

from backups.errors import CaptureFailed, Damaged
from controlplane.kernel.errors import Refused

from .base import Capture, Captured, Finding, Place, Restorer, SettingField, Source
from .programs import CHUNK_BYTES
from .userdata_restore import UserDataRestorer, compare_entries, compare_with_scratch, noting
from .userdata_rows import entries_of, line_of, load, models_of, read_rows, rows_of, scratch_database

DEFAULT_LABELS = ("auth.Group", "auth.User", "ratelimits.RateLimitProfile")


class UserDataCapture(Capture):
    """All rows are read in one transaction when it begins, into scratch: a reader in another thread has no part in
    this thread's transaction.
    """

    def __init__(self, models: list[type[Model]], scratch: Path) -> None:
        self._models, self._path = models, scratch / "rows.jsonl"
        self._interrupted = False
        self._entries: dict[str, dict[str, str]] = {}

    def __enter__(self) -> UserDataCapture:
        try:
            self._take()
        except DatabaseError as error:
            self._path.unlink(missing_ok=True)
            raise CaptureFailed(
                f"The rows could not be read: {error}.", remedy="See that the database answers and is migrated."
            ) from None
        except Damaged as error:
            self._path.unlink(missing_ok=True)
            raise CaptureFailed(error.message, remedy=error.remedy) from None
        except BaseException:
            self._path.unlink(missing_ok=True)
            raise
        return self

    def _take(self) -> None:
        nested = connection.in_atomic_block
        with transaction.atomic(), self._path.open("w", encoding="utf-8", errors="surrogatepass") as file:
            os.fchmod(file.fileno(), 0o600)
            if connection.vendor == "postgresql" and not nested:
                with connection.cursor() as cursor:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            rows = list(rows_of(self._models))
            self._entries = {model._meta.label_lower: {} for model in self._models} | entries_of(rows)
            for row in rows:
                file.write(line_of(row) + "\n")

    def __exit__(self, *exc: object) -> None:
        self._path.unlink(missing_ok=True)

    def interrupt(self) -> None:
        self._interrupted = True

    def _look_up(self) -> None:
        if self._interrupted:
            raise CaptureFailed("The reading of the rows was stopped.", remedy="Run the backup again.")

    def chunks(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                self._look_up()
                yield chunk

    def finish(self) -> Captured:
        self._look_up()
        counts = {label: len(entries) for label, entries in self._entries.items()}
        if not any(counts.values()):
            raise CaptureFailed(
                f"There is no row of {', '.join(counts)}.", remedy="Correct the labels: an empty backup is refused."
            )
        return Captured(
            expectations={"format": 1, "bytes": self._path.stat().st_size, "models": self._entries},
            summary={"rows": sum(counts.values()), **counts},
            tools={"django": django.get_version()},
        )


class UserDataSource(Source):
    kind = "userdata"
    label = "User data"
    description = (
        "Rows of the control plane's models, for example users, groups and role profiles, restorable one by one."
    )
    fields = (
        SettingField(
            "labels", "Models", "lines", "One per line, as app.Model; models that they refer to must be named too.",
            default="\n".join(DEFAULT_LABELS),
        ),
        SettingField(
            "exact", "Restore exactly", "flag", "On: a restore deletes rows that the backup does not hold.",
            default=False,
        ),
    )  # fmt: skip
    group = "userdata"
    file_name = "userdata.jsonl"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        lines = settings.get("labels") or DEFAULT_LABELS
        given = lines.splitlines() if isinstance(lines, str) else list(lines)
        labels = [str(line).strip() for line in given if str(line).strip()] or list(DEFAULT_LABELS)
        models_of(labels)
        return {"labels": labels, "exact": settings.get("exact") in (True, "true", "on", "1", 1)}

    @property
    def models(self) -> list[type[Model]]:
        return models_of(self.settings.get("labels") or DEFAULT_LABELS)

    def check(self) -> list[Finding]:
        try:
            counts = {model._meta.label: model._base_manager.count() for model in self.models}
        except (DatabaseError, Refused) as error:
            return [Finding("fail", f"the rows cannot be read: {error}")]
        if not any(counts.values()):
            return [Finding("fail", f"there is no row of {', '.join(counts)}: correct the labels")]
        return [Finding("pass", ", ".join(f"{count} rows of {label}" for label, count in counts.items()))]

    def capture(self, *, now: datetime, scratch: Path) -> AbstractContextManager[Capture]:
        return UserDataCapture(self.models, scratch)

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        try:
            return compare_entries(expectations, entries_of(read_rows(chunks)))
        except Damaged as error:
            return [Finding("fail", error.message)]

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        path = place.path / "scratch.sqlite3"
        models = self.models
        try:
            fields: dict[str, set[str]] = {}
            with scratch_database(path, models) as alias:
                load(noting(read_rows(chunks), fields), using=alias)
            return compare_with_scratch(path, models, expectations, fields)
        except Damaged as error:
            return [Finding("fail", error.message)]

    def restorer(self, place: Place) -> Restorer:
        return UserDataRestorer(self.models, place, exact=bool(self.settings.get("exact")))

    @classmethod
    def stock_command(cls) -> str:
        return "manage.py loaddata --format=jsonl -"
