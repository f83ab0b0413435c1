"""The form of a service, of its stages and of its steps: what they refuse, they say at the field that is meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.models import BaseInlineFormSet

from controlplane.console.base import theme_widget
from controlplane.kernel.errors import ConfigurationError, ZantaraError
from deployments import pipeline
from deployments.models import DeploymentStage, PipelineStep, Service
from deployments.stages import FULL, SEED, Stage, check_stages

from . import target_fields
from .fields import LinesField, PairsField, SecretPairsField

_ROWS = {"rows": 3}


class ServiceForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """A service. Its kind's settings are fields of their own (``target_fields``); its secrets are never rendered."""

    target_kind = forms.ChoiceField(label="Runs as", widget=forms.RadioSelect)
    environ = PairsField(
        label="Variables", required=False, widget=forms.Textarea(attrs=_ROWS),
        help_text="Of every instance: NAME=value, one a line.",
    )  # fmt: skip
    secret_variables = forms.CharField(required=False)
    route_hosts = LinesField(
        label="Host names", required=False, widget=forms.Textarea(attrs=_ROWS), help_text="One a line; none: all."
    )
    health_map = PairsField(
        label="Names in the document", required=False, widget=forms.Textarea(attrs=_ROWS),
        help_text="Component of the score = its name in the document's services, e.g. database=redis.",
    )  # fmt: skip

    class Meta:
        model = Service
        fields = (
            "name", "description", "enabled", "environment", "region", "target_kind", "target_settings", "instances",
            "max_surge", "environ", "edge_port", "route_prefix", "route_hosts", "sticky", "health_path",
            "document_path", "health_map", "gradual_rollout", "rollback_enabled", "health_check_timeout_seconds",
            "min_health_score", "min_ready_seconds", "readiness_deadline_seconds", "drain_timeout_seconds",
            "inconclusive_policy", "inconclusive_extensions", "slow_request_ms", "error_budget", "busy_policy",
            "backup_plan", "backup_level", "keep_releases",
        )  # fmt: skip
        labels = {  # noqa: RUF012  (Django reads a plain dictionary here)
            "instances": "Instances wanted",
            "max_surge": "Most above that",
            "edge_port": "Port at the edge",
            "route_prefix": "Path",
            "document_path": "Health document",
            "health_path": "Readiness path",
            "health_check_timeout_seconds": "Health check timeout, seconds",
            "min_health_score": "Least health score",
            "min_ready_seconds": "Ready for, seconds",
            "readiness_deadline_seconds": "Ready within, seconds",
            "drain_timeout_seconds": "Drains for at most, seconds",
            "inconclusive_policy": "Too little data",
            "inconclusive_extensions": "Watched again",
            "slow_request_ms": "Slow above, ms",
            "busy_policy": "A second deployment",
            "backup_plan": "Backup before it",
            "backup_level": "Proven to level",
            "keep_releases": "Releases that are kept",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        service: Service = self.instance
        self.stored = stored_secrets(service)
        if "target_kind" in self.fields:
            kinds: Any = self.fields["target_kind"]
            kinds.choices = target_fields.kind_choices(service.target_kind if service.pk else "")
        for kind, settings in self._shown_settings(service):
            for name, value in target_fields.initial_of(kind, settings).items():
                self.initial.setdefault(name, value)
        if "secret_variables" in self.fields:
            names = None if self.stored is None else list(self.stored)
            self.fields["secret_variables"] = SecretPairsField(names=names, label="Secret variables")
        for field in self.fields.values():
            theme_widget(field)

    def _shown_settings(self, service: Service) -> list[tuple[str, Mapping[str, Any]]]:
        own = service.target_kind if service.pk else ""
        kinds = [kind for kind, _ in target_fields.kind_choices()]
        return [(kind, service.target_settings if kind == own else {}) for kind in kinds]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if "target_kind" in data:
            settings, wrong = target_fields.checked(data["target_kind"], data)
            for name, said in wrong.items():
                self.add_error(name if name in self.fields else "target_kind", said)
            if not wrong:
                data["target_settings"] = settings
        given = data.get("secret_variables")
        if given:
            kept = {**(self.stored or {}), **given}
            self.instance.secret_environ = {name: value for name, value in kept.items() if value}
        return data

    def _post_clean(self) -> None:
        """The settings that the kind has accepted are the row's, whichever fields they were typed into."""
        super()._post_clean()  # type: ignore[misc]  # Django's own hook, untyped
        if "target_settings" in self.cleaned_data:
            self.instance.target_settings = self.cleaned_data["target_settings"]


def stored_secrets(service: Service) -> dict[str, str] | None:
    """The secret variables of the row; None where this installation's key does not open them."""
    try:
        return dict(service.secret_environ or {})
    except ConfigurationError:
        return None


def form_class() -> type[ServiceForm]:
    """The form with the fields of every kind of target that is registered now."""
    return type("ServiceForm", (ServiceForm,), target_fields.all_fields())


# --- stages ----------------------------------------------------------------------------------------


class StageForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    class Meta:
        model = DeploymentStage
        fields = ("percentage", "bake_seconds")
        labels = {"percentage": "Share of the traffic, %", "bake_seconds": "Watched for, seconds"}  # noqa: RUF012

    def has_changed(self) -> bool:
        """A row of the plan that a new service begins with is saved though nobody has touched it."""
        return bool(super().has_changed() or (not self.instance.pk and self.data.get(self.add_prefix("percentage"))))


class StageFormSet(BaseInlineFormSet):  # type: ignore[type-arg]  # Django's takes no type at run time
    """The plan as a whole: it rises, and ends at 100 %."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        service = kwargs.get("instance")
        if service is None or not service.pk:
            kwargs.setdefault("initial", [
                {"percentage": f"{stage.permille / 10:g}", "bake_seconds": stage.bake_seconds} for stage in SEED
            ])  # fmt: skip
        super().__init__(*args, **kwargs)

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        stages = [stage for form in self.forms if (stage := _typed(form)) is not None]
        if not stages and not self.instance.gradual_rollout:
            return
        try:
            check_stages(sorted(stages, key=lambda stage: stage.permille))
        except ZantaraError as refused:
            raise ValidationError(str(refused)) from None


def _typed(form: forms.ModelForm[DeploymentStage]) -> Stage | None:
    data = form.cleaned_data
    if not data or data.get("DELETE") or data.get("percentage") is None:
        return None
    return Stage(int(data["percentage"] * FULL / 100), int(data["bake_seconds"]))


# --- steps -----------------------------------------------------------------------------------------


class StepForm(forms.ModelForm):  # type: ignore[type-arg]  # Meta names the model
    """A command that runs on this host; its kind says whether it can be, and may have one of its own."""

    kind = forms.ChoiceField(help_text="How its output is read.")

    class Meta:
        model = PipelineStep
        fields = (
            "name", "phase", "position", "kind", "command", "working_directory", "timeout_seconds", "blocks",
            "unknown_policy", "enabled",
        )  # fmt: skip
        labels = {"timeout_seconds": "Time limit, seconds", "unknown_policy": "When it cannot be told"}  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "kind" in self.fields:
            choices = [(kind.name, kind.label) for kind in _kinds()]
            own = self.instance.kind if self.instance.pk else "command"
            if own not in dict(choices):
                choices.append((own, own))
            kinds: Any = self.fields["kind"]
            kinds.choices, kinds.initial = choices, own
            theme_widget(kinds)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        kind = next((one for one in _kinds() if one.name == data.get("kind")), None)
        if kind is not None and "command" in data:
            try:
                kind.argv(data["command"])
            except ZantaraError as refused:
                self.add_error("command", str(refused))
        if ".." in data.get("working_directory", "").split("/") or data.get("working_directory", "").startswith("/"):
            self.add_error("working_directory", "Name a directory within the release's checkout.")
        return data


def _kinds() -> list[Any]:
    return list(pipeline.kinds)
