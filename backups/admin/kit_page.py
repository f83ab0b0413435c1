"""The recovery kit: one download with what a dead machine takes along, readable by the recovery key alone."""

from __future__ import annotations

import structlog
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from backups import keys
from backups.kit import FILE_NAME, make_kit
from backups.models import BackupRecord
from controlplane.console.base import badge
from controlplane.kernel.errors import ZantaraError

from .record_actions import who
from .words import docs_link

log = structlog.get_logger(__name__)


def kit_page(request: HttpRequest) -> HttpResponse:
    """What is in it and how to use it; a POST downloads it, and the admin's log says who did."""
    if request.method == "POST":
        return _download(request)
    context = {
        **admin.site.each_context(request),
        "title": "Recovery kit",
        "key_is_here": keys.recovery_key_is_here(),
        "moved": badge("The recovery key is not on this machine", "ok"),
        "still_here": badge("The recovery key still lies on this machine", "warn"),
        "key_file": keys.recovery_key_file(),
        "docs": docs_link("recover-a-dead-machine"),
        "key_docs": docs_link("move-the-recovery-key-away"),
    }
    return render(request, "admin/backups/kit.html", context)


def _download(request: HttpRequest) -> HttpResponse:
    try:
        kit = make_kit()
    except ZantaraError as refused:
        messages.error(request, str(refused))
        return HttpResponseRedirect(reverse("admin:backups_recovery_kit"))
    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type=ContentType.objects.get_for_model(BackupRecord),
        object_repr="Recovery kit",
        action_flag=CHANGE,
        change_message="Downloaded.",
    )
    log.info("recovery_kit_downloaded", by=who(request))
    headers = {"Content-Disposition": f'attachment; filename="{FILE_NAME}"', "Cache-Control": "no-store"}
    return HttpResponse(kit, content_type="application/octet-stream", headers=headers)
