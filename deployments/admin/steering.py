"""What a person may ask of a deployment: each act has its permission, its dialog, and its states."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from controlplane.console.base import Dialog, action
from deployments.engine.requests import possible_commands, request_command
from deployments.models import Command, Deployment

from .asking import back_to
from .base import ViewOnlyAdmin, the_row, who
from .dialogs import MaybeReasonForm, ReasonForm


class Steering(ViewOnlyAdmin[Deployment]):
    """The buttons of a deployment's page. ``back_to`` is a link of the list and of a succeeded one's page."""

    actions_detail = (
        "promote", "resume", "pause", "promote_fully", "retry", "roll_back", "back_to", "abort",
    )  # fmt: skip

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Those that the person may do, and that make sense in the deployment's state."""
        allowed: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]  # of the theme
        deployment = self.seen_row(request, object_id)
        if deployment is None:
            return []
        possible = {*possible_commands(deployment), *(["back_to"] if deployment.state == "succeeded" else [])}
        prefix = f"{self.opts.app_label}_{self.opts.model_name}_"
        return [one for one in allowed if one.action_name.removeprefix(prefix) in possible]

    @action(
        permission="promote_deployment",
        description="Promote",
        icon="skip_next",
        variant="primary",
        dialog=Dialog(
            "Promote to the next stage",
            "The rest of this stage's time is not waited for. What the judge finds still counts.",
            MaybeReasonForm,
            "Promote",
        ),
    )
    def promote(self, request: HttpRequest, form: MaybeReasonForm, object_id: str) -> HttpResponse | None:
        return self._ask(request, form, object_id, Command.Kind.PROMOTE)

    @action(
        permission="promote_fully_deployment",
        description="Promote fully",
        icon="fast_forward",
        variant="warning",
        url_path="promote-fully",
        dialog=Dialog(
            "Give it all traffic now",
            "Every stage that is left is skipped: everybody gets the new release at once.",
            ReasonForm,
            "Promote fully",
        ),
    )
    def promote_fully(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse | None:
        return self._ask(request, form, object_id, Command.Kind.PROMOTE_FULLY)

    @action(
        permission="pause_deployment",
        description="Pause",
        icon="pause",
        dialog=Dialog(
            "Pause this deployment",
            "It stays where it is: the share of traffic is kept, and time does not count.",
            MaybeReasonForm,
            "Pause",
        ),
    )
    def pause(self, request: HttpRequest, form: MaybeReasonForm, object_id: str) -> HttpResponse | None:
        return self._ask(request, form, object_id, Command.Kind.PAUSE)

    @action(
        permission="resume_deployment",
        description="Resume",
        icon="play_arrow",
        variant="primary",
        dialog=Dialog("Resume this deployment", "It goes on where it was paused.", MaybeReasonForm, "Resume"),
    )
    def resume(self, request: HttpRequest, form: MaybeReasonForm, object_id: str) -> HttpResponse | None:
        return self._ask(request, form, object_id, Command.Kind.RESUME)

    @action(
        permission="abort_deployment",
        description="Abort",
        icon="cancel",
        variant="danger",
        dialog=Dialog(
            "Abort this deployment",
            "If traffic has moved, it goes back to the old release first; then the new instances stop.",
            ReasonForm,
            "Abort",
        ),
    )
    def abort(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse | None:
        return self._ask(request, form, object_id, Command.Kind.ABORT)

    @action(
        permission="retry_deployment",
        description="Retry",
        icon="replay",
        dialog=Dialog(
            "Deploy this release once more",
            "A new deployment of the same release is asked for.",
            MaybeReasonForm,
            "Retry",
        ),
    )
    def retry(self, request: HttpRequest, form: MaybeReasonForm, object_id: str) -> HttpResponse | None:
        return self._ask(request, form, object_id, Command.Kind.RETRY)

    @action(
        permission="roll_back_deployment",
        description="Roll back",
        icon="undo",
        variant="danger",
        url_path="roll-back",
        dialog=Dialog(
            "Roll back behind this deployment",
            "Everybody gets the release that it replaced. Its instances are there before any traffic moves.",
            ReasonForm,
            "Roll back",
        ),
    )
    def roll_back(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse | None:
        return self._ask(request, form, object_id, Command.Kind.ROLL_BACK)

    @action(
        permission="roll_back_deployment",
        description="Roll back to this",
        icon="history",
        url_path="back-to",
        dialog=Dialog(
            "Roll back to this release",
            "Everybody gets the release of this deployment again, at once and without its checks and stages.",
            ReasonForm,
            "Roll back to it",
        ),
    )
    def back_to(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        deployment = the_row(self, request, object_id)
        return back_to(request, deployment.release, form.cleaned_data["reason"], succeeded=deployment)

    def _ask(self, request: HttpRequest, form: Any, object_id: str, kind: str) -> HttpResponse | None:
        """Ask for the command; one of a deployment that is over leads to the deployment that it began."""
        deployment = the_row(self, request, object_id)
        command = request_command(deployment, kind, actor=who(request), reason=form.cleaned_data["reason"])
        words = kind.replace("_", " ")
        if command.applied_at is None:
            messages.info(request, f"{deployment.name} was asked to {words}; it does so within seconds.")
            return None
        messages.success(request, f"{deployment.name} was asked to {words}: {command.outcome}.")
        newest = Deployment.objects.filter(service_id=deployment.service_id).order_by("-created_at", "-pk")
        return HttpResponseRedirect(
            reverse("admin:deployments_deployment_change", args=(newest.values("pk")[0]["pk"],))
        )
