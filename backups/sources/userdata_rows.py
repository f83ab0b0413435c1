"""Rows of models named by label, as Django's own JSON lines: what ``manage.py loaddata --format=jsonl -`` reads.

Rows refer to each other by natural keys where their models have them, so that they find their way into a database in
which the numbers are others. Times keep their microseconds, lists of related rows are sorted: one state has one text.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from django.apps import apps
from django.core import serializers
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.core.serializers import base
from django.core.serializers.python import Deserializer
from django.db import DatabaseError, connections
from django.db.models import Model
from django.db.utils import load_backend
from django.utils.duration import duration_iso_string

from backups.errors import Damaged
from controlplane.kernel.errors import Refused

#: Made by ``migrate`` in every database: rows may refer to them without their being in the set.
ALWAYS_THERE = frozenset({"auth.permission", "contenttypes.contenttype"})

Row = dict[str, Any]


def models_of(labels: Sequence[str]) -> list[type[Model]]:
    """The models, those that others refer to first; Refused, naming the label, where one is unknown or refers to a
    model that is not among them.
    """
    models: list[type[Model]] = []
    for label in labels:
        try:
            model = apps.get_model(label)
        except (LookupError, ValueError):
            raise Refused(
                f"labels: there is no model {label!r}.", remedy="Write app.Model, for example auth.User."
            ) from None
        if model not in models:
            models.append(model)
    for model in models:
        if getattr(getattr(model, "natural_key", None), "dependencies", ()):
            raise Refused(
                f"labels: what identifies a {model._meta.label} lies in other models.", remedy="Leave it out."
            )
    have = {model._meta.label_lower for model in models} | ALWAYS_THERE
    for model in models:
        for field in (*model._meta.concrete_fields, *model._meta.many_to_many):
            other = field.remote_field.model if field.remote_field is not None else None
            if other is not None and other._meta.label_lower not in have:
                raise Refused(
                    f"labels: {model._meta.label} refers to {other._meta.label} ({field.name}).",
                    remedy=f"Name {other._meta.label} too.",
                )
    return list(serializers.sort_dependencies([(None, models)], allow_cycles=True))


def has_natural_key(model: type[Model]) -> bool:
    return hasattr(model, "natural_key")


def rows_of(models: Iterable[type[Model]], *, using: str = "default", with_pk: bool = False) -> Iterator[Row]:
    """Every row, model by model. ``with_pk`` also where a natural key would do."""
    for model in models:
        serializer = serializers.get_serializer("python")()
        queryset = model._base_manager.using(using).order_by("pk")
        prefetched = queryset.prefetch_related(*(field.name for field in model._meta.many_to_many))
        for row in serializer.serialize(
            prefetched, use_natural_foreign_keys=True, use_natural_primary_keys=not with_pk
        ):
            for field in model._meta.many_to_many:
                if field.name in row["fields"]:
                    row["fields"][field.name].sort(key=repr)
            yield json.loads(line_of(row))


class _Encoder(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        if isinstance(o, datetime | date | time):
            return o.isoformat()
        if isinstance(o, timedelta):
            return duration_iso_string(o)
        if isinstance(o, Decimal | UUID):
            return str(o)
        return super().default(o)


def line_of(row: Row) -> str:
    return json.dumps(row, cls=_Encoder, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest_of(row: Row) -> str:
    return hashlib.sha256(line_of(row).encode("utf-8", "surrogatepass")).hexdigest()


def key_of(row: Row) -> str:
    """What identifies the row for people and for upserts: its natural key, else its number."""
    model = apps.get_model(row["model"])
    if not has_natural_key(model):
        return f"#{row['pk']}"
    plain = {}
    for name, value in row["fields"].items():
        field = model._meta.get_field(name)
        if not field.is_relation:
            plain[name] = field.to_python(value)
    return " ".join(str(part) for part in model(**plain).natural_key())


def entries_of(rows: Iterable[Row]) -> dict[str, dict[str, str]]:
    """Model -> key -> digest. Damaged where two rows have one key: nobody could tell them apart on the way back."""
    entries: dict[str, dict[str, str]] = {}
    for row in rows:
        of_model = entries.setdefault(row["model"], {})
        key = key_of(row)
        if key in of_model:
            raise Damaged(f"Two rows of {row['model']} have the key {key}.", remedy="Make their natural keys differ.")
        of_model[key] = digest_of(row)
    return entries


def read_rows(chunks: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a stream; Damaged where a line is none."""
    held = b""
    for chunk in chunks:
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            yield _row(line)
    if held:
        raise Damaged("The last line is not whole.", remedy="Use another restore point.")


def _row(line: bytes) -> Row:
    try:
        row = json.loads(line)
        apps.get_model(row["model"])
        if not isinstance(row["fields"], dict):
            raise TypeError
    except LookupError as error:
        raise Damaged(
            f"This version knows no such model: {error}", remedy="Restore with the version that saved it."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise Damaged("A line is no row.", remedy="Use another restore point.") from None
    return dict(row)


def file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            yield chunk


def instance_of(row: Row, *, using: str = "default") -> base.DeserializedObject:
    """The row as a model's instance with its related rows looked up; Damaged, naming it, where one is missing."""
    try:
        found: base.DeserializedObject = next(iter(Deserializer([row], using=using)))
        return found
    except (base.DeserializationError, ObjectDoesNotExist, ValidationError, DatabaseError) as error:
        raise Damaged(
            f"{row['model']} {key_of(row)} cannot be restored: {error}",
            remedy="What it refers to is not in this release: restore with the version that saved it.",
        ) from None


@contextmanager
def scratch_database(path: Path, models: Sequence[type[Model]]) -> Iterator[str]:
    """The alias of an SQLite database with the tables of these models; made where ``path`` is not there yet."""
    alias = f"scratch-{secrets.token_hex(4)}"
    new = not path.exists()
    # Known to this thread alone, and not to the settings: nobody else ever sees this alias.
    connections[alias] = load_backend("django.db.backends.sqlite3").DatabaseWrapper(
        {**connections["default"].settings_dict, "NAME": str(path), "OPTIONS": {}, "CONN_MAX_AGE": 0}, alias
    )
    try:
        if new:
            _make_tables(alias, models)
        yield alias
    finally:
        connections[alias].close()
        del connections[alias]


def _make_tables(alias: str, models: Sequence[type[Model]]) -> None:
    from django.contrib.auth.management import create_permissions
    from django.contrib.contenttypes.management import create_contenttypes

    every = {model._meta.label_lower: model for model in models}
    for label in ALWAYS_THERE:
        every.setdefault(label, apps.get_model(label))
    connection = connections[alias]
    connection.disable_constraint_checking()
    with connection.schema_editor() as editor:
        for model in every.values():
            editor.create_model(model)
    for config in apps.get_app_configs():
        create_contenttypes(config, verbosity=0, interactive=False, using=alias, apps=apps)
        create_permissions(config, verbosity=0, interactive=False, using=alias, apps=apps)
    _add_own_permissions(alias)


def _add_own_permissions(alias: str) -> None:
    """Those that no model declares but a release makes in every database, on models of others: groups hold them too."""
    from django.contrib.auth.models import Permission
    from django.contrib.contenttypes.models import ContentType

    there = {permission.natural_key() for permission in Permission.objects.using(alias).select_related("content_type")}
    for permission in Permission.objects.select_related("content_type"):
        if permission.natural_key() in there:
            continue
        kind = ContentType.objects.using(alias).filter(
            app_label=permission.content_type.app_label, model=permission.content_type.model
        )
        if found := kind.first():
            made = Permission(name=permission.name, codename=permission.codename, content_type=found)
            made.save(using=alias)


def load(rows: Iterable[Row], *, using: str) -> None:
    """Write the rows as they are into an empty database; Damaged, naming the row, where one does not go in."""
    for row in rows:
        try:
            instance_of(row, using=using).save(using=using)
        except DatabaseError as error:
            raise Damaged(
                f"{row['model']} {key_of(row)} does not go into a database: {error}",
                remedy="Use another restore point.",
            ) from None
