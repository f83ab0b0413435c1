"""The one row that says what is shed. What services read of it is made in ``shedding/policy.py``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, NoReturn, Self

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from simple_history.models import HistoricalRecords

from controlplane.kernel.errors import Refused

from .shedding.policy import BUILT_IN, SheddingPolicy


def _exceeds(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one > other


def default_path_prefixes() -> list[str]:
    return list(BUILT_IN.path_prefixes)


def default_exempt_roles() -> list[str]:
    return list(BUILT_IN.exempt_roles)


class SheddingPolicyQuerySet(models.QuerySet["LoadSheddingPolicy"]):
    """One row that is saved by itself: bulk writes would skip history, version and publication."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Refused(
            "The shedding policy is one row with history: it is neither deleted nor written in bulk.",
            remedy="Save the row; to shed nothing, switch it off.",
        )

    update = bulk_create = bulk_update = delete = _refuse


class LoadSheddingPolicy(models.Model):
    """What is refused, and to whom, when a service has more to do than it can: one row for all services."""

    class Controller(models.TextChoices):
        ADAPTIVE = "adaptive", "adaptive: dispatch lag, queue wait and a full house; the tried default"
        BOUND = "bound", "plain bound: as many requests as threads, always shared by class"
        LAG = "lag", "dispatch lag alone: for views that compute"
        WAIT = "wait", "queue wait alone: needs X-Request-Start from a trusted proxy"
        GRADIENT2 = "gradient2", "Gradient2: follows the time to answer; for views that wait for others"
        OFF = "off", "off: only the fixed limits below hold"

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    active = models.BooleanField(default=True, help_text="Off: nothing is ever shed or delayed.")
    controller = models.CharField(
        "how requests in hand are bounded", max_length=12, choices=Controller.choices, default=Controller.ADAPTIVE
    )
    lag_ms = models.PositiveIntegerField(
        "dispatch lag, ms",
        default=25,
        validators=[MinValueValidator(5), MaxValueValidator(1000)],
        help_text="A sleeping thread that wakes later than this (90th percentile) means too many compute at once.",
    )
    queue_wait_ms = models.PositiveIntegerField(
        "queue wait, ms",
        default=250,
        validators=[MinValueValidator(5), MaxValueValidator(60_000)],
        help_text="A longer wait before the application (90th percentile), told by a trusted proxy, is too long.",
    )
    low_share_percent = models.PositiveIntegerField(
        "share of the low classes, %",
        default=40,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Of the bound, while it is short and higher classes want the rest. Low is the lower half of the "
        "roles, “default” and unknown roles.",
    )
    middle_share_percent = models.PositiveIntegerField(
        "share of all but the top class, %",
        default=75,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="The top class may fill the whole bound, whatever the others hold.",
    )
    memory_limit_percent = models.PositiveIntegerField(
        "memory limit, %",
        default=90,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Above it: 503. Of the container's memory limit, without page cache; of the machine's without one.",
    )
    connections_limit = models.PositiveIntegerField(
        "connections",
        default=1000,
        validators=[MinValueValidator(1)],
        help_text="Above it: 503. Established connections to the service's port.",
    )
    pressure_percent = models.PositiveIntegerField(
        "memory pressure from, %",
        default=75,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="From here to the memory limit the pressure rises. An async service delays each request. In a sync "
        "worker a request that waits would hold a thread and make the overload worse: there a growing chance of an "
        "early 503 meets the low classes instead, from none here to certainty at the memory limit.",
    )
    delay_step_ms = models.PositiveIntegerField(
        "delay per % over it, ms",
        default=20,
        validators=[MaxValueValidator(1000)],
        help_text="Async services only.",
    )
    most_delay_ms = models.PositiveIntegerField(
        "longest delay, ms", default=1000, validators=[MaxValueValidator(10_000)], help_text="Async services only."
    )
    path_prefixes = models.JSONField(
        "paths",
        default=default_path_prefixes,
        help_text="Memory, connections and pressure count for paths that begin with one of these.",
    )
    exempt_roles = models.JSONField(
        "exempt roles", default=default_exempt_roles, blank=True, help_text="Never refused for memory or connections."
    )
    note = models.TextField(blank=True, help_text="Why it is as it is, for the next reader.")
    version = models.PositiveBigIntegerField(default=0, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    history = HistoricalRecords(excluded_fields=["updated_at"])
    objects: ClassVar[models.Manager[Self]] = SheddingPolicyQuerySet.as_manager()

    class Meta:
        verbose_name = verbose_name_plural = "load shedding"
        default_permissions = ("change", "view")

    def __str__(self) -> str:
        return "Load shedding"

    def save(self, *args: Any, above: int = 0, **kwargs: Any) -> None:
        """Save under the next version and publish it once that is committed; the very first save is version 0."""
        from .shedding.rows import publish_on_commit

        self.pk = 1
        with transaction.atomic():
            held = type(self).objects.select_for_update().filter(pk=1).values_list("version", flat=True).first()
            if held is not None:
                self._state.adding = False
                self.version = max(held, above) + 1
            super().save(*args, **kwargs)
            publish_on_commit()

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Refused("There is always one shedding policy.", remedy="To shed nothing, switch it off.")

    @classmethod
    def the_row(cls) -> LoadSheddingPolicy:
        """The row, made with its defaults (and not published: they are built in) where there is none."""
        return cls.objects.get_or_create(pk=1)[0]

    def clean(self) -> None:
        super().clean()
        wrong: dict[str, str] = {}
        # A field that did not pass its own check is None here, and has its own message.
        if _exceeds(self.pressure_percent, self.memory_limit_percent):
            wrong["pressure_percent"] = "Pressure begins below the memory limit, or at it."
        if _exceeds(self.low_share_percent, self.middle_share_percent):
            wrong["low_share_percent"] = "The low classes are among all but the top: their share cannot be larger."
        for name in ("path_prefixes", "exempt_roles"):
            value = getattr(self, name)
            if not isinstance(value, list) or not all(isinstance(part, str) and part.strip() for part in value):
                wrong[name] = 'A list of texts, for example ["/zantara."].'
        if "path_prefixes" not in wrong and not all(path.startswith("/") for path in self.path_prefixes):
            wrong["path_prefixes"] = "A path begins with a slash."
        if wrong:
            raise ValidationError(wrong)

    def as_policy(self) -> SheddingPolicy:
        """This row as services read it."""
        names = {field.name for field in fields(SheddingPolicy)}
        values = {name: getattr(self, name) for name in names}
        return SheddingPolicy(**values | {name: tuple(values[name]) for name in ("path_prefixes", "exempt_roles")})
