"""Acts on restore points: each has its permission, its dialog and its event, and is allowed in some states only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups.engine import expiry, requests
from backups.models import BackupRecord, ProofRun
from backups.proof.requests import request_proof
from controlplane.console.base import Dialog, action
from controlplane.kernel.errors import Refused

from .base import ViewOnlyAdmin
from .dialogs import DeleteForm, PinForm, ReasonForm, RunNowForm, VerifyForm
from .words import LEVELS

log = structlog.get_logger(__name__)

#: In which states a button is shown. What it calls refuses by itself in the others.
_STANDS = frozenset({"committed", "expiring"})
SHOWN_IN: Mapping[str, frozenset[str]] = {
    "cancel": frozenset({"queued", "running"}),
    "verify": _STANDS,
    "drill": _STANDS,
    "restore": _STANDS,
    "pin": _STANDS,
    "unpin": _STANDS,
    "undo_expiry": frozenset({"expiring"}),
    "delete_set": frozenset({"committed", "expiring", "failed", "cancelled"}),
}


def is_shown(name: str, record: BackupRecord) -> bool:
    """Whether a button makes sense for the record as it is."""
    if record.state not in SHOWN_IN.get(name, frozenset({record.state})):
        return False
    if name == "cancel":
        return record.cancel_requested_at is None
    if name in ("pin", "unpin"):
        return (record.pinned_at is None) is (name == "pin")
    return True


class RecordActions(ViewOnlyAdmin[BackupRecord]):
    """Buttons of the history and of a restore point's page."""

    actions_list = ("run_now", "recovery_kit")
    actions_detail = (
        "cancel",
        "undo_expiry",
        "drill",
        "restore",
        {"title": "More", "icon": "more_horiz", "items": ["verify", "pin", "unpin", "delete_set"]},
    )

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Those that the person may do, and that make sense in the record's state."""
        allowed: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]  # of the theme
        record = self.seen_row(request, object_id)
        prefix = f"{self.opts.app_label}_{self.opts.model_name}_"
        return [a for a in allowed if record is not None and is_shown(a.action_name.removeprefix(prefix), record)]

    # --- of the list

    @action(
        permission="run_backup",
        description="Run a backup now",
        icon="play_arrow",
        variant="primary",
        dialog=Dialog("Run a backup now", "The schedule goes on as before.", RunNowForm, "Run now"),
        url_path="run-now",
    )
    def run_now(self, request: HttpRequest, form: RunNowForm) -> HttpResponse:
        data = form.cleaned_data
        return run_plan(request, data["plan"], data["reason"])

    @action(
        permission="download_recovery_kit",
        description="Recovery kit",
        icon="medical_services",
        navigates=True,
        url_path="recovery-kit",
    )
    def recovery_kit(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:backups_recovery_kit"))

    # --- of one

    @action(
        permission="cancel_backup",
        description="Cancel",
        icon="cancel",
        dialog=Dialog(
            "Cancel this run",
            "What it has stored so far is removed; sets before it stay.",
            ReasonForm,
            "Cancel it",
        ),
    )
    def cancel(self, request: HttpRequest, form: ReasonForm, object_id: str) -> None:
        record = self.the_row(request, object_id)
        reason = form.cleaned_data["reason"]
        if requests.request_cancel(record, actor=who(request), reason=reason) == "cancelled":
            messages.success(request, f"{record.name} is cancelled: it had not begun.")
        else:
            messages.info(request, f"{record.name} was asked to stop; it ends within seconds.")

    @action(
        permission="verify_backup",
        description="Verify",
        icon="fact_check",
        dialog=Dialog(
            "Verify this backup", "Reads what is stored and compares; nothing is restored.", VerifyForm, "Verify"
        ),
    )
    def verify(self, request: HttpRequest, form: VerifyForm, object_id: str) -> HttpResponse:
        return self._prove(request, object_id, form.cleaned_data["level"])

    @action(
        permission="drill_backup",
        description="Drill",
        icon="exercise",
        dialog=Dialog(
            "Run a restore drill",
            "Every artifact is restored into scratch and compared with what was saved. Nothing that runs is touched.",
            submit="Drill",
        ),
    )
    def drill(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        return self._prove(request, object_id, 3)

    def _prove(self, request: HttpRequest, object_id: str, level: int) -> HttpResponse:
        record = self.the_row(request, object_id)
        proof = request_proof(record, level=level, trigger=ProofRun.Trigger.MANUAL, requested_by=who(request))
        messages.success(request, f"{LEVELS[level]} of {record.name} is asked for.")
        return HttpResponseRedirect(reverse("admin:backups_proofrun_change", args=(proof.pk,)))

    @action(permission="restore_backup", description="Restore", icon="settings_backup_restore", navigates=True)
    def restore(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:backups_restore_choose", args=(object_id,)))

    @action(
        permission="pin_backup",
        description="Pin",
        icon="keep",
        dialog=Dialog("Pin this backup", "A pinned set is never deleted by its plan.", PinForm, "Pin"),
    )
    def pin(self, request: HttpRequest, form: PinForm, object_id: str) -> None:
        record = self.the_row(request, object_id)
        expiry.pin(record, actor=who(request), reason=form.cleaned_data["reason"])
        messages.success(request, f"{record.name} is pinned.")

    @action(
        permission="pin_backup",
        description="Unpin",
        icon="keep_off",
        dialog=Dialog("Unpin this backup", "The plan's rules say again how long it is kept.", ReasonForm, "Unpin"),
    )
    def unpin(self, request: HttpRequest, form: ReasonForm, object_id: str) -> None:
        record = self.the_row(request, object_id)
        expiry.unpin(record, actor=who(request), reason=form.cleaned_data["reason"])
        messages.success(request, f"{record.name} is not pinned any more.")

    @action(
        permission="pin_backup",
        description="Keep it: undo the expiry",
        icon="undo",
        variant="primary",
        dialog=Dialog(
            "Keep this backup",
            "It is marked for deletion. It is pinned instead, or the rules would mark it again at their next turn.",
            submit="Keep it",
        ),
    )
    def undo_expiry(self, request: HttpRequest, form: Any, object_id: str) -> None:
        record = self.the_row(request, object_id)
        expiry.undo_expiry(record, who(request))
        messages.success(request, f"{record.name} is kept, and pinned.")

    @action(
        permission="delete_backup",
        description="Delete",
        icon="delete",
        variant="danger",
        url_path="delete-set",
        dialog=Dialog(
            "Delete this backup",
            "Its objects are removed from the store for good, at once. There is no undo.",
            DeleteForm,
            "Delete for good",
        ),
    )
    def delete_set(self, request: HttpRequest, form: DeleteForm, object_id: str) -> None:
        record = self.the_row(request, object_id)
        expiry.delete_now(record, actor=who(request), reason=form.cleaned_data["reason"])
        messages.success(request, f"{record.name} is being deleted; its record stays.")


def who(request: HttpRequest) -> str:
    """The person, as events name him."""
    return request.user.get_username()


def run_plan(request: HttpRequest, plan: Any, reason: str) -> HttpResponse:
    """Ask for a run and lead to its page."""
    record = requests.request_backup(
        plan, trigger=BackupRecord.Trigger.MANUAL, requested_by=who(request), reason=reason
    )
    if record is None:
        raise Refused(f"A run of {plan.name} is there already.", remedy="Load the list again.")
    messages.success(request, f"{record.name} is asked for.")
    return HttpResponseRedirect(reverse("admin:backups_backuprecord_change", args=(record.pk,)))
