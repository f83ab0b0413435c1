"""Filters of the history of deployments."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from deployments.machines import ACTIVE
from deployments.models import Deployment

from .words import DEPLOYMENT_STATES


class StateFilter(admin.SimpleListFilter):
    """By where it is, in the words of the list; “not over” is everything that a person may still steer."""

    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Not over"), *((state, words[0]) for state, words in DEPLOYMENT_STATES.items())]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> QuerySet[Deployment]:
        if self.value() == "open":
            return queryset.filter(state__in=(*ACTIVE, "waiting"))
        return queryset.filter(state=self.value()) if self.value() in DEPLOYMENT_STATES else queryset
