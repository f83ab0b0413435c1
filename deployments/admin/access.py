"""Who may do what with deployments: one method for each permission, as the actions ask for them by name."""

from __future__ import annotations

from django.http import HttpRequest

from deployments.models import Command

#: The permission for each of a person's acts.
VERBS = {kind: f"{kind}_deployment" for kind in Command.Kind.values}


def may(request: HttpRequest, verb: str) -> bool:
    """Whether the person holds ``deployments.<verb>``."""
    return bool(request.user.has_perm(f"deployments.{verb}"))


class DeploymentVerbs:
    """The permissions of ``Deployment.Meta`` as the methods that ``action(permission=…)`` looks for."""

    def has_start_deployment_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "start_deployment")

    def has_promote_deployment_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "promote_deployment")

    def has_promote_fully_deployment_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "promote_fully_deployment")

    def has_pause_deployment_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "pause_deployment")

    def has_resume_deployment_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "resume_deployment")

    def has_abort_deployment_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "abort_deployment")

    def has_retry_deployment_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "retry_deployment")

    def has_roll_back_deployment_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "roll_back_deployment")

    def has_stop_line_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "stop_line")

    def has_look_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """What only shows is for everybody who may see deployments."""
        return may(request, "view_deployment")
