"""Tokens, and the answers that a repeated request gets again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, NoReturn

from django.conf import settings
from django.db import models
from django.db.models import Q

from controlplane.kernel.errors import Refused

LONGEST_LIFE = timedelta(days=366)
_LATER = ({"last_used_at"}, {"revoked_at", "revoked_by"})


class ApiToken(models.Model):
    """A program's right to call the API as its owner, within its scopes. Written once: then it is used, and revoked."""

    name = models.CharField(max_length=63, help_text="What it is for, for example “GitHub, deploys the shop”.")
    prefix = models.CharField(max_length=11, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="api_tokens",
        help_text="Whom it acts for. It can do no more than this person may at the time.",
    )
    scopes = models.JSONField(default=list)
    role = models.CharField(max_length=100, blank=True, help_text="For the limits; empty: the owner's.")
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(editable=False)
    created_by = models.CharField(max_length=200, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    revoked_by = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        ordering = ("-created_at", "-pk")
        verbose_name = "API token"
        default_permissions = ("add", "view")
        permissions = (("revoke_apitoken", "Can revoke an API token"),)
        constraints = (
            models.UniqueConstraint(
                fields=("name",),
                condition=Q(revoked_at__isnull=True),
                name="api_one_token_a_name",
                violation_error_message="There is a token of this name that is not revoked.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """A new row, its use, or its end; Refused otherwise."""
        if not self._state.adding and set(kwargs.get("update_fields") or ()) not in _LATER:
            raise Refused("A token is never changed.", remedy="Revoke it and make another.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Refused("A token is not deleted: who used it would be forgotten.", remedy="Revoke it.")

    @property
    def actor(self) -> str:
        """Whom history and events name."""
        return f"{self.owner.get_username()} (token {self.prefix})"[:200]

    def standing(self, now: datetime) -> str:
        """``good``, ``revoked`` or ``expired``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at <= now else "good"


class RememberedAnswer(models.Model):
    """What a request with an ``Idempotency-Key`` was answered, for 24 hours. Written in the act's own transaction."""

    token = models.ForeignKey(ApiToken, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    request_digest = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_index=True)
    status = models.PositiveSmallIntegerField(default=0)
    location = models.CharField(max_length=300, blank=True)
    body = models.TextField(help_text="As it was sent; a JSON column would put its members in another order.")

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [models.UniqueConstraint(fields=("token", "key"), name="api_one_answer_a_key")]

    def __str__(self) -> str:
        return f"{self.token_id}/{self.key}"
