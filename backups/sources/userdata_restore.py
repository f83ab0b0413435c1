"""Put rows back into the live database: in one transaction, row by row through the models' own ``save``.

So history is written and what hangs on a save (limits that are published, say) happens. Rows that are equal are not
touched; rows that the backup does not hold are left alone unless ``exact`` was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django.core.management.color import no_style
from django.db import DatabaseError, connection, transaction
from django.db.models import Model

from backups.errors import Damaged, RestoreFailed

from .base import Finding, Place, Restorer
from .compare import differences, verdict
from .userdata_rows import (
    Row,
    entries_of,
    file_chunks,
    has_natural_key,
    instance_of,
    key_of,
    line_of,
    load,
    read_rows,
    rows_of,
    scratch_database,
)  # fmt: skip

REASON = "Restored from a backup"
UNDONE = "Restore undone"


class UserDataRestorer(Restorer):
    """In the place's directory: ``rows.jsonl`` (what is restored), ``scratch.sqlite3`` (the same in a database) and,
    from the swap on, ``before.jsonl`` (what was live).
    """

    def __init__(self, models: Sequence[type[Model]], place: Place, *, exact: bool) -> None:
        super().__init__()
        self._models, self._exact = models, exact
        self._rows, self._before = place.path / "rows.jsonl", place.path / "before.jsonl"
        self._scratch = place.path / "scratch.sqlite3"

    def preflight(self, plain_bytes: int) -> list[Finding]:
        names = ", ".join(model._meta.label for model in self._models)
        if self._exact:
            return [Finding("warn", f"rows of {names} that the backup does not hold will be deleted")]
        return [Finding("pass", f"rows of {names} can be put back; others stay")]

    def prepare(self, chunks: Iterator[bytes]) -> None:
        self.discard()
        with self._rows.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        with scratch_database(self._scratch, self._models) as alias:
            load(self._wanted(), using=alias)

    def _wanted(self) -> Iterator[Row]:
        return read_rows(file_chunks(self._rows))

    def validate(self, expectations: Mapping[str, Any]) -> list[Finding]:
        """Against the expectations; then the whole swap once for trial, rolled back."""
        if not self._rows.exists():
            return [Finding("fail", "nothing was prepared: prepare the restore again")]
        fields: dict[str, set[str]] = {}
        for _ in noting(self._wanted(), fields):
            pass
        findings = compare_with_scratch(self._scratch, self._models, expectations, fields)
        if any(finding.status == "fail" for finding in findings):
            return findings
        try:
            with transaction.atomic():
                self._put_back()
                transaction.set_rollback(True)
        except (DatabaseError, Damaged) as error:
            findings.append(Finding("fail", f"the rows do not go into the live database: {error}"))
        return findings

    def swap(self) -> None:
        if not self._rows.exists():
            raise RestoreFailed("Nothing was prepared.", remedy="Prepare the restore again.")
        try:
            with transaction.atomic():
                self._keep()
                self._put_back()
        except DatabaseError as error:
            raise RestoreFailed(
                f"The rows do not go into the live database: {error}.",
                remedy="Something else has their names by now: look at it and try again.",
            ) from None

    def _keep(self) -> None:
        """Once: after a swap that was committed, what is live is no longer what was."""
        if self._before.exists():
            return
        half = self._before.with_suffix(".half")
        with half.open("w", encoding="utf-8", errors="surrogatepass") as file:
            os.fchmod(file.fileno(), 0o600)
            for row in rows_of(self._models, with_pk=True):
                file.write(line_of(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        half.rename(self._before)

    def _put_back(self) -> None:
        if self._exact:  # first: what goes may hold a place that comes back
            remove(self._models, lambda keys: keys - _keys(self._wanted()), reason=REASON)
        put_back(self._wanted(), reason=REASON)
        reset_sequences(self._models)

    def undo(self) -> None:
        if not self._before.exists():
            return
        with transaction.atomic():
            kept = list(read_rows(file_chunks(self._before)))
            added = _keys(self._wanted()) - _keys(kept)
            remove(self._models, lambda keys: keys & added, reason=UNDONE)
            put_back(kept, reason=UNDONE)
            reset_sequences(self._models)

    def discard(self) -> None:
        for path in (self._rows, self._before, self._before.with_suffix(".half"), self._scratch):
            path.unlink(missing_ok=True)


def _keys(rows: Iterable[Row]) -> set[tuple[str, str]]:
    return {(row["model"], key_of(row)) for row in rows}


def kept_by_the_model(model: type[Model]) -> set[str]:
    """Fields that a model fills in itself, and in which a restored row may therefore differ."""
    return {
        field.name
        for field in model._meta.concrete_fields
        if getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False) or not field.editable
    }


def put_back(rows: Iterable[Row], *, reason: str) -> None:
    """Insert or update each row that is not as it should be."""
    present: dict[str, dict[str, Row]] = {}
    for row in rows:
        wanted = instance_of(row)
        model = type(wanted.object)
        if row["model"] not in present:
            present[row["model"]] = {key_of(live): live for live in rows_of([model])}
        if _same(present[row["model"]].get(key_of(row)), row, model):
            continue
        wanted.object._change_reason = reason  # type: ignore[attr-defined]
        wanted.object.save()
        for name, related in (wanted.m2m_data or {}).items():
            getattr(wanted.object, name).set(related)


def _same(live: Row | None, row: Row, model: type[Model]) -> bool:
    if live is None:
        return False
    ignored = kept_by_the_model(model)
    one, other = ({name: value for name, value in r["fields"].items() if name not in ignored} for r in (live, row))
    return one == other


def remove(models: Sequence[type[Model]], choose: Any, *, reason: str) -> None:
    """Delete the rows that ``choose`` picks of all (model, key) that are live; those that refer to others first."""
    for model in reversed(models):
        live = {(row["model"], key_of(row)): row for row in rows_of([model], with_pk=True)}
        for key in sorted(choose(set(live))):
            instance = model._base_manager.get(pk=live[key]["pk"])
            instance._change_reason = reason  # type: ignore[attr-defined]
            instance.delete()


def reset_sequences(models: Sequence[type[Model]]) -> None:
    """Rows that came with their numbers leave PostgreSQL's counters behind them."""
    numbered = [model for model in models if not has_natural_key(model)]
    statements = connection.ops.sequence_reset_sql(no_style(), numbered) if numbered else []
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def noting(rows: Iterable[Row], fields: dict[str, set[str]]) -> Iterator[Row]:
    """The same rows; ``fields`` learns which fields each model had when they were saved."""
    for row in rows:
        fields.setdefault(row["model"], set()).update(row["fields"])
        yield row


def compare_with_scratch(
    path: Path, models: Sequence[type[Model]], expectations: Mapping[str, Any], fields: Mapping[str, set[str]]
) -> list[Finding]:
    """What the database at ``path`` holds against the expectations, row by row, in the fields that were saved: those
    that a later release has added are no difference.
    """
    with scratch_database(path, models) as alias:
        rows = (
            {**row, "fields": {name: row["fields"][name] for name in row["fields"] if name in fields[row["model"]]}}
            if row["model"] in fields
            else row
            for row in rows_of(models, using=alias)
        )
        return compare_entries(expectations, entries_of(rows))


def compare_entries(expectations: Mapping[str, Any], found: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    problems: list[Finding] = []
    for label in sorted({*expectations["models"], *found}):
        problems += differences(label, expectations["models"].get(label, {}), found.get(label, {}))
    rows = sum(len(entries) for entries in found.values())
    return verdict(problems, f"{rows} rows are exactly as they were")
