"""The rows that an operator edits. What the limiter reads is made of them in ``policies.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models, transaction
from django.db.models import Q
from django_prometheus.models import ExportModelOperationsMixin
from simple_history.models import HistoricalRecords

from controlplane.kernel.errors import Refused

from .decision import DEFAULT_ROLE, SEED_WINDOW_SECONDS, Policy, policy_name
from .shedding_model import LoadSheddingPolicy

__all__ = ["LoadSheddingPolicy", "PolicyVersion", "RateLimitProfile", "StaleProfile"]

#: 31 days: the longest window. A sub-bucket is then half a day, and a counter lives that much longer.
LONGEST_WINDOW_SECONDS = 31 * 86400
MOST_REQUESTS = 10_000_000


if TYPE_CHECKING:

    class _Counted: ...
else:
    #: rows made, changed and deleted, for /metrics
    _Counted = ExportModelOperationsMixin("rate_limit_profile")


class PolicyVersion(models.Model):
    """The version of the policy set: one row, raised in the transaction of every change to a profile."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    version = models.PositiveBigIntegerField(default=0)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"version {self.version}"

    @classmethod
    def raise_by_one(cls, *, above: int = 0) -> int:
        """The next version, above ``above`` too; call it inside a transaction.

        The row is locked on PostgreSQL; on SQLite the immediate transaction holds the only write lock.
        """
        cls.objects.get_or_create(pk=1)
        row = cls.objects.select_for_update().get(pk=1)
        row.version = max(row.version, above) + 1
        row.save()
        return row.version

    @classmethod
    def current(cls) -> int:
        return cls.objects.filter(pk=1).values_list("version", flat=True).first() or 0


def _both(one: int | None, other: int | None, compare: Callable[[int, int], bool]) -> bool:
    return one is not None and other is not None and compare(one, other)


class StaleProfile(Refused):
    """Somebody else has saved or deleted this profile since the saver looked at it; nothing was changed."""


class ProfileQuerySet(models.QuerySet["RateLimitProfile"]):
    """Deletes under a new version; refuses the bulk writes that would skip history, version and publication."""

    def delete(self) -> tuple[int, dict[str, int]]:
        from .policies import publish_on_commit

        with transaction.atomic(using=self.db):
            PolicyVersion.raise_by_one()
            answer = super().delete()
            publish_on_commit()
        return answer

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    @staticmethod
    def _refuse(what: str) -> NoReturn:
        raise Refused(
            f"{what} would change limits without history, version and publication.",
            remedy="Save each profile by itself.",
        )

    def update(self, **kwargs: Any) -> NoReturn:
        self._refuse("update()")

    def bulk_create(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("bulk_create()")

    def bulk_update(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("bulk_update()")


class RateLimitProfile(_Counted, models.Model):
    """How many requests a role may make per window, optionally narrowed to a route prefix or one subject."""

    class Key(models.TextChoices):
        IP_USER = "ip:user", "address and user: each address of a user counts on its own"
        USER = "user", "user: one count whatever the address; anonymous callers share one"
        IP = "ip", "address: one count whoever calls from it"
        USER_OR_IP = "user|ip", "user, else address: per user, and per address for anonymous callers"

    class FailMode(models.TextChoices):
        OPEN = "open", "open: let requests through, uncounted"
        CLOSED = "closed", "closed: answer 503 until the store is back"
        LOCAL = "local", "local: each process enforces its share of the limit"

    role = models.CharField(
        max_length=100,
        default=DEFAULT_ROLE,
        db_index=True,
        help_text="The caller's role, from the JWT or a Django group of this name. “default” is everybody else.",
    )
    route_prefix = models.CharField(
        max_length=200,
        blank=True,
        validators=[
            RegexValidator(
                r"\A/[^\s?#\\]*\Z",
                "A route prefix begins with a slash and holds no space, “?” or “#”, for example /zantara.",
            )
        ],
        help_text="Only paths that begin with this, for example /zantara. – Empty: all paths.",
    )
    subject = models.CharField(
        max_length=200, blank=True, help_text="Only this caller (the token's “sub”, or the Django user name)."
    )
    unlimited = models.BooleanField(default=False, help_text="Never denied and not counted.")
    requests = models.PositiveIntegerField(
        default=100,
        validators=[
            MinValueValidator(1, "At least 1. To shut a caller out, do that where he gets his token."),
            MaxValueValidator(MOST_REQUESTS, "At most 10 000 000; for no limit at all choose “unlimited”."),
        ],
        help_text="How many requests one caller may make in one window.",
    )
    window_seconds = models.PositiveIntegerField(
        "window",
        default=SEED_WINDOW_SECONDS,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_WINDOW_SECONDS)],
        help_text="For example 15m, 1h or 900 (seconds). In no stretch of this length are more requests let through.",
    )
    burst_requests = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_REQUESTS)],
        help_text="How many of them within the burst window. Both or neither.",
    )
    burst_window_seconds = models.PositiveIntegerField(
        "burst window",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_WINDOW_SECONDS)],
        help_text="A second, shorter window that holds beside the first, for example 10s.",
    )
    message = models.CharField(
        max_length=200,
        default="Rate limit exceeded",
        help_text="What a caller who is over the limit reads (the answer's “detail”).",
    )
    key = models.CharField(
        "counted per",
        max_length=10,
        choices=Key.choices,
        default=Key.IP_USER,
        help_text="Who shares one count. A changed choice begins new counts.",
    )
    fail_mode = models.CharField(
        max_length=10,
        choices=FailMode.choices,
        default=FailMode.OPEN,
        help_text="What happens while Redis does not answer.",
    )
    enforced = models.BooleanField(
        default=True, help_text="Off: a shadow. It denies nothing and counts what it would have denied."
    )
    active = models.BooleanField(default=True, help_text="Off: as if this row did not exist.")
    note = models.TextField(blank=True, help_text="Why it is as it is, for the next reader.")
    version = models.PositiveBigIntegerField(default=0, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    history = HistoricalRecords(excluded_fields=["updated_at"])
    objects: ClassVar[models.Manager[Self]] = ProfileQuerySet.as_manager()

    class Meta:
        permissions = (
            ("reset_caller", "Can reset the count of one caller"),
            ("explain_decision", "Can explain a decision id"),
        )
        ordering = ("-requests", "role", "route_prefix", "subject")
        constraints = (
            models.UniqueConstraint(
                fields=("role", "route_prefix", "subject", "enforced"),
                condition=Q(active=True),
                name="one_active_profile_per_selector",
                violation_error_message=(
                    "There is an active profile for this role, route prefix and subject already: edit that one."
                ),
            ),
        )

    def __str__(self) -> str:
        narrowed = " ".join(part for part in (self.route_prefix, self.subject) if part)
        return f"{self.role} {narrowed}".strip()

    def save(self, *args: Any, expected_version: int | None = None, **kwargs: Any) -> None:
        """Save under the next version and publish the set once that is committed.

        ``expected_version`` is the version that the saver looked at; StaleProfile if the row has moved on.
        """
        from .policies import publish_on_commit

        with transaction.atomic():
            version = PolicyVersion.raise_by_one()  # takes the lock under which the row cannot move
            if expected_version is not None:
                self._refuse_if_not_at(expected_version)
            self.version = version
            update_fields: Iterable[str] | None = kwargs.get("update_fields")
            if update_fields is not None:
                kwargs["update_fields"] = {*update_fields, "version", "updated_at"}
            super().save(*args, **kwargs)
            publish_on_commit()

    def _refuse_if_not_at(self, expected_version: int) -> None:
        present = type(self).objects.filter(pk=self.pk).values_list("version", flat=True).first()
        if present is None:
            raise StaleProfile(f"“{self}” has been deleted meanwhile.", remedy="Add it again if it is still wanted.")
        if present != expected_version:
            raise StaleProfile(
                f"“{self}” has been changed meanwhile (you saw version {expected_version}, it is now {present}).",
                remedy="Load the page again, look at the change, then decide.",
            )

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        from .policies import publish_on_commit

        with transaction.atomic():
            PolicyVersion.raise_by_one()
            answer = super().delete(*args, **kwargs)
            publish_on_commit()
        return answer

    def clean(self) -> None:
        super().clean()
        self.role = self.role.strip()
        self.subject = self.subject.strip()
        wrong: dict[str, str] = {}
        if not self.role:
            wrong["role"] = "Name a role; “default” is everybody who has none."
        if self.unlimited and not self.enforced:
            wrong["unlimited"] = "A shadow without a limit would do nothing: give it a limit, or enforce it."
        wrong |= self._burst_errors()
        if wrong:
            raise ValidationError(wrong)

    def _burst_errors(self) -> dict[str, str]:
        if (self.burst_requests is None) != (self.burst_window_seconds is None):
            return {"burst_requests": "Give both burst requests and burst window, or neither."}
        wrong: dict[str, str] = {}
        # A field that did not pass its own check is None here, and has its own message.
        if _both(self.burst_window_seconds, self.window_seconds, lambda burst, whole: burst >= whole):
            wrong["burst_window_seconds"] = "The burst window must be shorter than the window."
        if _both(self.burst_requests, self.requests, lambda burst, whole: burst > whole):
            wrong["burst_requests"] = "More than the window's own limit: this burst would never be reached."
        return wrong

    def as_policy(self) -> Policy:
        """This row as the limiter sees it."""
        return Policy(
            id=self.pk,
            name=policy_name(self.role, row_id=self.pk, narrowed=bool(self.route_prefix or self.subject)),
            role=self.role,
            requests=None if self.unlimited else self.requests,
            window_seconds=self.window_seconds,
            message=self.message,
            route_prefix=self.route_prefix,
            subject=self.subject,
            burst_requests=None if self.unlimited else self.burst_requests,
            burst_window_seconds=None if self.unlimited else self.burst_window_seconds,
            key=self.key,  # type: ignore[arg-type]  # TextChoices hold exactly KeyExpression's values
            fail_mode=self.fail_mode,  # type: ignore[arg-type]  # likewise FailMode's
            enforced=self.enforced,
            version=self.version,
        )
