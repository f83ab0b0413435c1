"""Proofs in the admin: each climb of the ladder, what was looked at, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import ProofRun
from backups.proof.requests import request_cancel
from controlplane.console.base import Dialog, action, display, human_bytes, human_seconds, since
from controlplane.kernel import clock

from .base import ViewOnlyAdmin
from .live import MOVED, proof_line
from .record_actions import who
from .words import (
    ACTIVE_PROOF,
    FINDINGS,
    LEVEL_MEANS,
    LEVELS,
    PROOF_STATES,
    docs_link,
    small,
    state_badge,
    took,
    trigger_label,
)


class ProofStateFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, words[0]) for state, words in PROOF_STATES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ProofRun]) -> QuerySet[ProofRun]:
        return queryset.filter(state=self.value()) if self.value() in PROOF_STATES else queryset


@admin.register(ProofRun)
class ProofRunAdmin(ViewOnlyAdmin[ProofRun]):
    """One row per proof."""

    list_display = ("level_shown", "record_shown", "state_shown", "when_shown", "took_shown", "read_shown", "by_shown")
    list_display_links = ("level_shown",)
    list_filter = (ProofStateFilter, "level", "trigger", "created_at")
    search_fields = ("record__name", "requested_by")
    search_help_text = "Id of the backup or person"
    ordering = ("-created_at", "-pk")
    change_form_template = "admin/backups/proof.html"
    empty_state = (
        "A proof checks a stored backup: that its parts are there, that they can be read, that it restores. "
        "The first is made once a backup is committed."
    )
    fields: ClassVar[Any] = ("level",)
    actions_detail = ("cancel",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProofRun]:
        return super().get_queryset(request).select_related("record")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response: HttpResponse = super().changelist_view(request, {"title": "Proofs", **(extra_context or {})})
        return response

    @display(description="Proof", ordering="level")
    def level_shown(self, proof: ProofRun) -> SafeString:
        return format_html('<span title="{}">{}</span>', LEVEL_MEANS[proof.level], LEVELS[proof.level])

    @display(description="Backup", ordering="record__name")
    def record_shown(self, proof: ProofRun) -> SafeString:
        url = reverse("admin:backups_backuprecord_change", args=(proof.record_id,))
        return format_html('<a class="zt-link zt-nowrap" href="{}">{}</a>', url, proof.record.name)

    @display(description="State", ordering="state")
    def state_shown(self, proof: ProofRun) -> SafeString:
        note = proof.error if proof.state in ("failed", "unknown", "not_possible") else ""
        return format_html("{}{}", state_badge(proof.state, PROOF_STATES), small(_short(note)))

    @display(description="When", ordering="created_at")
    def when_shown(self, proof: ProofRun) -> SafeString:
        return since(proof.started_at or proof.created_at)

    @display(description="Took")
    def took_shown(self, proof: ProofRun) -> str:
        return took(proof.started_at, proof.finished_at) or "–"

    @display(description="Read", ordering="read_bytes")
    def read_shown(self, proof: ProofRun) -> str:
        return human_bytes(proof.read_bytes) if proof.read_bytes else "–"

    @display(description="Asked for by")
    def by_shown(self, proof: ProofRun) -> str:
        return proof.requested_by or trigger_label(proof)

    # --- one proof

    def get_urls(self) -> list[URLPattern]:
        live = path("<int:object_id>/live/", self.admin_site.admin_view(self.live_view), name="backups_proofrun_live")
        return [live, *super().get_urls()]

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        allowed: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]  # of the theme
        proof = self.seen_row(request, object_id)
        may_stop = proof is not None and proof.state in ACTIVE_PROOF and proof.cancel_requested_at is None
        return allowed if may_stop else []

    @action(
        permission="cancel_backup",
        description="Cancel",
        icon="cancel",
        dialog=Dialog(
            "Cancel this proof", "What it learned so far is forgotten; the backup stays.", submit="Cancel it"
        ),
    )
    def cancel(self, request: HttpRequest, form: Any, object_id: str) -> None:
        if request_cancel(self.the_row(request, object_id), actor=who(request)):
            messages.info(request, "The proof stops.")
        else:
            messages.warning(request, "The proof is over already.")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = dict(extra_context or {})
        proof = self.seen_row(request, object_id)
        if proof is not None and self.has_view_permission(request, proof):
            context |= {
                "show_history": False,
                "title": f"{LEVELS[proof.level]} of {proof.record.name}",
                **proof_page(proof, clock.now()),
            }
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response

    def live_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """The part of the page that changes while the proof runs."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        proof = ProofRun.objects.select_related("record").filter(pk=object_id).first()
        if proof is None:
            raise Http404
        response = render(request, "admin/backups/proof_live.html", proof_page(proof, clock.now()))
        response["Cache-Control"] = "no-store"
        if proof.state not in ACTIVE_PROOF:
            response["HX-Trigger"] = MOVED
        return response


def proof_page(proof: ProofRun, now: datetime) -> dict[str, Any]:
    """The context of a proof's page and of its live part."""
    return {
        "proof": proof,
        "state": state_badge(proof.state, PROOF_STATES),
        "level": LEVELS[proof.level],
        "means": LEVEL_MEANS[proof.level],
        "line": proof_line(proof, now) if proof.state in ACTIVE_PROOF else None,
        "live_url": reverse("admin:backups_proofrun_live", args=(proof.pk,)),
        "record_url": reverse("admin:backups_backuprecord_change", args=(proof.record_id,)),
        "findings": findings_by_artifact(proof.findings or []),
        "help_url": docs_link("no-identity") if proof.state == "not_possible" else "",
        "facts": [
            (name, shown)
            for name, shown in (
                ("Asked for", f"{trigger_label(proof)}{f', by {proof.requested_by}' if proof.requested_by else ''}"),
                ("Only", ", ".join(map(str, proof.only_artifacts or []))),
                ("Started", since(proof.started_at, now=now) if proof.started_at else ""),
                ("Took", took(proof.started_at, proof.finished_at)),
                ("Read", human_bytes(proof.read_bytes) if proof.read_bytes else ""),
                ("Attempt", proof.attempt if proof.attempt > 1 else ""),
            )
            if shown != ""
        ],
    }


#: How grave a finding is: what an artifact's badge shows is its gravest.
_RANK = {"fail": 0, "unknown": 1, "warn": 2, "not_possible": 3}


def findings_by_artifact(findings: Sequence[Any]) -> list[dict[str, Any]]:
    """Each artifact with the gravest of its findings as a badge and all of them in words; the worst artifact first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in findings:
        if isinstance(one, dict):
            found.setdefault(str(one.get("artifact", "")), []).append(one)
    shown = [(min(_rank(one) for one in mine), name, mine) for name, mine in found.items()]
    return [
        {
            "artifact": name,
            "badge": state_badge(str(min(mine, key=_rank).get("status", "")), FINDINGS),
            "lines": [_line(one) for one in sorted(mine, key=_rank)],
        }
        for _, name, mine in sorted(shown, key=lambda one: one[0])
    ]


def _rank(one: Mapping[str, Any]) -> int:
    return _RANK.get(str(one.get("status")), 4)


def _line(one: Mapping[str, Any]) -> dict[str, Any]:
    seconds = one.get("restore_seconds") or one.get("seconds")
    return {
        "detail": one.get("detail", ""),
        "is_wrong": one.get("status") == "fail",
        "seconds": human_seconds(seconds) if isinstance(seconds, int | float) else "",
    }


def _short(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:90]}…"
