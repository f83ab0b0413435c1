"""“Stop the line”: its two buttons above lists, and the banner's context."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest

from controlplane.console.base import Dialog, action
from deployments.engine.requests import stop_line
from deployments.models import LineStop

from .base import who
from .dialogs import MaybeReasonForm, ReasonForm


def line_now(request: HttpRequest) -> LineStop:
    """The one row, read once in a request."""
    line: LineStop = request.__dict__.setdefault("_deployments_line", None) or LineStop.now()
    request.__dict__["_deployments_line"] = line
    return line


class LineActions:
    """For an admin class with a list: ``actions_list = ("stop_the_line", "let_it_run")``."""

    def get_actions_list(self, request: HttpRequest) -> list[Any]:
        """The one of the two that makes sense now."""
        allowed: list[Any] = super().get_actions_list(request)  # type: ignore[misc]  # of the theme
        hidden = "_stop_the_line" if line_now(request).stopped else "_let_it_run"
        return [one for one in allowed if not one.action_name.endswith(hidden)]

    @action(
        permission="stop_line",
        description="Stop the line",
        icon="front_hand",
        variant="danger",
        url_path="stop-the-line",
        dialog=Dialog(
            "Stop the line",
            "From now on nothing is deployed and no traffic moves, but back. It holds for every service.",
            ReasonForm,
            "Stop the line",
        ),
    )
    def stop_the_line(self, request: HttpRequest, form: ReasonForm) -> None:
        stop_line(stopped=True, reason=form.cleaned_data["reason"], actor=who(request))
        messages.warning(request, "The line is stopped.")

    @action(
        permission="stop_line",
        description="Let it run",
        icon="play_circle",
        variant="primary",
        url_path="let-it-run",
        dialog=Dialog(
            "Let the line run again",
            "What waits begins, and what stood still goes on where it was.",
            MaybeReasonForm,
            "Let it run",
        ),
    )
    def let_it_run(self, request: HttpRequest, form: MaybeReasonForm) -> None:
        stop_line(stopped=False, reason=form.cleaned_data["reason"], actor=who(request))
        messages.success(request, "The line runs again.")
