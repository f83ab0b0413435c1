"""Filters of the history of backups."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest

from backups.models import Artifact, BackupRecord
from controlplane.kernel import clock

from .words import LEVELS, OLD_PROOF_SECONDS, RECORD_STATES


class StateFilter(admin.SimpleListFilter):
    """By what became of it, in the words of the list."""

    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, words[0]) for state, words in RECORD_STATES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BackupRecord]) -> QuerySet[BackupRecord]:
        return queryset.filter(state=self.value()) if self.value() in RECORD_STATES else queryset


class ProofFilter(admin.SimpleListFilter):
    """By what is proven: the level that every artifact reaches, none, damage, or an old proof."""

    title, parameter_name = "proof", "proof"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        levels = [(str(level), f"{LEVELS[level]} or higher" if level < 3 else LEVELS[3]) for level in (3, 2, 1, 0)]
        return [*levels, ("none", "Not proven yet"), ("old", "Not restored for 7 days"), ("damaged", "Damaged")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BackupRecord]) -> QuerySet[BackupRecord]:
        value = self.value()
        if value is None:
            return queryset
        committed = queryset.filter(state__in=("committed", "expiring"))
        if value in ("0", "1", "2", "3"):
            return committed.filter(_reaches(int(value)))
        if value == "none":
            return committed.exclude(_reaches(0)).exclude(_damaged())
        if value == "old":
            limit = clock.now() - timedelta(seconds=OLD_PROOF_SECONDS)
            own = Artifact.objects.filter(record=OuterRef("pk"))
            return committed.filter(Exists(own.filter(Q(l3_at__lt=limit) | Q(l3_at__isnull=True))))
        return queryset.filter(_damaged()) if value == "damaged" else queryset


def _reaches(level: int) -> Q:
    """Every artifact holds at this level or above, and there is at least one."""
    own = Artifact.objects.filter(record=OuterRef("pk"))
    below = {f"l{number}_at__isnull": True for number in range(level, 4)}
    return Q(Exists(own)) & ~Q(Exists(own.filter(Q(**below) | Q(damaged_at__isnull=False))))


def _damaged() -> Q:
    return Q(Exists(Artifact.objects.filter(record=OuterRef("pk"), damaged_at__isnull=False)))
