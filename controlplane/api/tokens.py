"""Making a token, finding the one that a request carries, ending one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db.models import Q

from controlplane.identity.caller import role_of_user
from controlplane.identity.roles import priorities
from controlplane.kernel import clock
from controlplane.kernel.errors import NotAuthentic, Refused

from . import credentials
from .models import LONGEST_LIFE, ApiToken
from .scopes import SCOPES, not_grantable

log = structlog.get_logger(__name__)

#: A row is not written for every request: that a token was used is known to the minute.
USE_IS_NOTED_EVERY = timedelta(minutes=1)


def make_token(token: ApiToken, *, maker: Any, now: datetime | None = None) -> str:
    """Save a token that has its name, owner, scopes, role and end; its text, which is nowhere afterwards.

    Refused as ``check_grant`` says.
    """
    now = now or clock.now()
    check_grant(token, maker=maker, now=now)
    secret = credentials.new_secret()
    token.prefix, token.digest = secret.prefix, secret.digest
    token.created_at, token.created_by = now, maker.get_username()
    token.save(force_insert=True)
    log.info("api_token_made", prefix=token.prefix, owner=token.owner.get_username(), by=maker.get_username())
    return secret.text


def check_grant(token: ApiToken, *, maker: Any, now: datetime) -> None:
    """Refused for no or an unknown scope, one that its maker or its owner may not use himself, an owner who may more
    than its maker, a life of no length or above a year, or an unknown role. Puts its scopes in the table's order."""
    if unknown := sorted(set(token.scopes) - set(SCOPES)):
        raise Refused(f"There is no scope {unknown[0]}.", remedy=f"There are: {', '.join(SCOPES)}.")
    if not token.scopes:
        raise Refused("A token without a scope is good for nothing.", remedy="Choose what it is for.")
    _refuse_what_is_not_his(maker, token.owner, token.scopes)
    if not now < token.expires_at <= now + LONGEST_LIFE:
        raise Refused("A token lives at most a year, and ends in the future.", remedy="Choose another end.")
    if token.role and token.role not in priorities():
        raise Refused(f"There is no role {token.role}.", remedy=f"There are: {', '.join(priorities())}.")
    token.scopes = [scope for scope in SCOPES if scope in token.scopes]


def _refuse_what_is_not_his(maker: Any, owner: Any, scopes: list[str]) -> None:
    his = maker.get_all_permissions()
    if not maker.is_superuser and (owner.is_superuser or not owner.get_all_permissions() <= his):
        raise Refused(f"{owner.get_username()} may do more than you.", remedy="Choose yourself as its owner.")
    if not owner.is_active:
        raise Refused(f"{owner.get_username()} is locked.", remedy="Choose another owner.")
    for person in (maker, owner):
        if missing := not_grantable(scopes, person.get_all_permissions()):
            raise Refused(
                f"{person.get_username()} may not do what {missing[0]} is for.",
                remedy=f"It needs: {', '.join(SCOPES[missing[0]].permissions)}.",
            )


def find_token(text: str, now: datetime | None = None) -> ApiToken:
    """The token that has this text, its owner loaded; NotAuthentic for one that is unknown or does not hold (any more).

    An unknown prefix and a wrong secret get the same answer for the same work.
    """
    now = now or clock.now()
    prefix = credentials.prefix_of(text)
    token = None if prefix is None else ApiToken.objects.select_related("owner").filter(prefix=prefix).first()
    if not credentials.matches(text, token.digest if token is not None else credentials.NOBODYS) or token is None:
        raise NotAuthentic("The API token is not known here.", remedy="Copy it whole, or make a new one.")
    standing = token.standing(now)
    if standing != "good":
        raise NotAuthentic(f"The API token {token.prefix}… is {standing}.", remedy="Make a new one in the admin.")
    if not token.owner.is_active:
        raise NotAuthentic(
            f"The owner of the API token {token.prefix}… is locked.", remedy="Make one for another person."
        )
    return token


def note_use(token: ApiToken, now: datetime) -> None:
    """Remember that it was used, at most once a minute."""
    before = now - USE_IS_NOTED_EVERY
    if token.last_used_at is None or token.last_used_at <= before:
        stale = Q(last_used_at__isnull=True) | Q(last_used_at__lte=before)
        ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)


def role_of(token: ApiToken) -> str:
    """The role that its requests count under."""
    return token.role or role_of_user(token.owner)


def revoke(token: ApiToken, *, actor: str, now: datetime | None = None) -> None:
    """End it at once, for good. Refused where it has ended before."""
    token.refresh_from_db()
    if token.revoked_at is not None:
        raise Refused(f"{token.name} is revoked already.")
    token.revoked_at, token.revoked_by = now or clock.now(), actor[:200]
    token.save(update_fields=["revoked_at", "revoked_by"])
    log.warning("api_token_revoked", prefix=token.prefix, by=actor)
