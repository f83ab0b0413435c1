"""Asking for deployments from a page: the request, the message, and the page that it leads to."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from controlplane.kernel.errors import Refused
from deployments.engine.requests import create_release, request_deployment
from deployments.models import Deployment, Release, Service

from .base import who
from .dialogs import DeployForm


def deploy(request: HttpRequest, service: Service, form: DeployForm) -> HttpResponse:
    """Ask for the chosen release, or for a new one made from the form; Refused says why not."""
    data = form.cleaned_data
    release = data["release"] or create_release(
        service,
        data["version"],
        source_kind=data["source_kind"],
        source=data["source"],
        ref=data["ref"],
        forward_only=data["forward_only"],
        created_by=who(request),
    )
    return leads_to(
        request,
        request_deployment(
            service, release, trigger=Deployment.Trigger.MANUAL, requested_by=who(request), reason=data["reason"]
        ),
    )


def back_to(
    request: HttpRequest, release: Release, reason: str, *, succeeded: Deployment | None = None
) -> HttpResponse:
    """Ask for an earlier release again, at once. Refused for one that never served everybody."""
    before = Deployment.objects.filter(release=release, state="succeeded")
    if not (succeeded.state == "succeeded" if succeeded else before.exists()):
        raise Refused(f"{release} never served everybody.", remedy="Deploy it, so that it is checked and watched.")
    return leads_to(
        request,
        request_deployment(
            release.service, release, trigger=Deployment.Trigger.ROLLBACK, requested_by=who(request), reason=reason,
            skips_pipeline=True, at_once=True,
        ),
    )  # fmt: skip


def leads_to(request: HttpRequest, deployment: Deployment) -> HttpResponse:
    """To the page of what was asked for."""
    messages.success(request, f"{deployment.name} is asked for.")
    return HttpResponseRedirect(reverse("admin:deployments_deployment_change", args=(deployment.pk,)))
