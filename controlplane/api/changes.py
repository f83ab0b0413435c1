"""History rows as plain data: a few queries for each kind of row, whatever the number of changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import OuterRef, Q, Subquery
from django.http import Http404

from controlplane.kernel.redaction import redact

_WHAT = {"+": "created", "~": "changed", "-": "deleted"}
#: Of rows that note by themselves when they were touched.
_BY_ITSELF = frozenset({"version", "updated_at", "changed_at", "last_run_at", "total_run_count", "date_changed"})


def models_with_history() -> dict[str, type[models.Model]]:
    """``app.model`` -> model, of every row that keeps history."""
    return {
        model._meta.label_lower: model
        for model in apps.get_models()
        if hasattr(model._meta, "simple_history_manager_attribute")
    }


def visible_models(person: Any, wanted: str = "") -> list[type[models.Model]]:
    """Those that the person may view; only the one that is wanted, if one is. Http404 for one that he may not see."""
    found = {
        label: model
        for label, model in models_with_history().items()
        if person.has_perm(f"{model._meta.app_label}.view_{model._meta.model_name}")
    }
    if not wanted:
        return list(found.values())
    if wanted.lower() not in found:
        raise Http404(f"There is no history of {wanted}. There is of: {', '.join(sorted(found)) or 'nothing'}.")
    return [found[wanted.lower()]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ends: behind it come older changes, and of the same instant those that sort lower."""

    at: datetime
    label: str
    history_id: int

    def __str__(self) -> str:
        return f"{self.at.isoformat()}~{self.label}~{self.history_id}"

    @classmethod
    def read(cls, text: str) -> Place:
        """The place again; ValueError for what is none."""
        at, label, history_id = text.split("~")
        place = cls(datetime.fromisoformat(at), label, int(history_id))
        if place.at.tzinfo is None:
            raise ValueError("a time without a zone")
        return place


def entries(
    kinds: Iterable[type[models.Model]], *, object_id: str = "", behind: Place | None = None, limit: int
) -> tuple[list[dict[str, Any]], Place | None]:
    """The last ``limit`` changes of these kinds, as ``schemas.HistoryEntry``, and the place behind which there are
    older ones; None where there are none."""
    found: list[Any] = []
    for model in kinds:
        found += _rows(model, object_id, behind, limit + 1)
    found.sort(key=lambda row: (row.history_date, _label(row), row.history_id), reverse=True)
    shown = found[:limit]
    older = _older(shown)
    more = None
    if len(found) > limit:
        more = Place(shown[-1].history_date, _label(shown[-1]), shown[-1].history_id)
    return [_entry(row, older.get((type(row), row.history_id))) for row in shown], more


def _label(row: Any) -> str:
    return str(row.instance_type._meta.label_lower)


def _rows(model: type[models.Model], object_id: str, behind: Place | None, most: int) -> list[Any]:
    history: type[models.Model] = getattr(model, model._meta.simple_history_manager_attribute).model  # type: ignore[attr-defined]
    key = model._meta.pk.attname
    same = history._base_manager.filter(**{key: OuterRef(key), "history_id__lt": OuterRef("history_id")})
    rows = history._base_manager.select_related("history_user").annotate(
        older_id=Subquery(same.order_by("-history_id").values("history_id")[:1])
    )
    if object_id:
        if not object_id.isascii() or not object_id.isdigit():
            return []
        rows = rows.filter(**{key: int(object_id)})
    if behind is not None:
        label = model._meta.label_lower
        until = Q(history_date__lt=behind.at)
        if label <= behind.label:
            tie = Q(history_date=behind.at)
            until |= tie if label < behind.label else tie & Q(history_id__lt=behind.history_id)
        rows = rows.filter(until)
    return list(rows.order_by("-history_date", "-history_id")[:most])


def _older(rows: Sequence[Any]) -> dict[tuple[type[Any], int], Any]:
    """(history model, id) of a row -> the version before it."""
    found: dict[tuple[type[Any], int], Any] = {}
    for kind in {type(row) for row in rows}:
        mine = [row for row in rows if type(row) is kind and row.older_id is not None]
        before = kind._base_manager.in_bulk([row.older_id for row in mine])
        found |= {(kind, row.history_id): before[row.older_id] for row in mine if row.older_id in before}
    return found


def _entry(row: Any, older: Any | None) -> dict[str, Any]:
    model = row.instance_type
    return {
        "at": row.history_date,
        "model": _label(row),
        "object_id": str(getattr(row, model._meta.pk.attname)),
        "object": _name(row),
        "what": _WHAT[row.history_type],
        "by": row.history_user.get_username() if row.history_user else None,
        "reason": row.history_change_reason,
        "changes": _changes(row, older) if older is not None and row.history_type == "~" else [],
    }


def _name(row: Any) -> str:
    """What people call the row, without asking the database for it."""
    for name in ("name", "role", "percentage", "reason"):
        if getattr(row, name, None):
            return str(getattr(row, name))
    return f"{row.instance_type._meta.verbose_name}"


def _changes(row: Any, older: Any) -> list[dict[str, Any]]:
    """Each column that differs, with secrets masked; lists of related rows by the ids of their far ends."""
    found = []
    for field in row.tracked_fields:
        name = field.attname
        old, new = getattr(older, name), getattr(row, name)
        if old != new and field.name not in _BY_ITSELF:
            found.append({"field": field.name, "old": _plain(field.name, old), "new": _plain(field.name, new)})
    if related := [field.name for field in getattr(type(row), "_history_m2m_fields", ())]:
        delta = row.diff_against(older, included_fields=related)
        found += [{"field": one.field, "old": _far(one.old), "new": _far(one.new)} for one in delta.changes]
    return found


def _plain(name: str, value: Any) -> Any:
    return redact({name: json.loads(json.dumps(value, cls=DjangoJSONEncoder, default=str))})[name]


def _far(rows: Iterable[Any]) -> list[str]:
    return [str(list(row.values())[-1]) if isinstance(row, dict) else str(row) for row in rows]
