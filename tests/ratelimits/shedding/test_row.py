"""The row: saved with history, published, reconciled, and edited in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.urls import reverse

from controlplane.kernel.errors import Refused
from ratelimits.models import LoadSheddingPolicy
from ratelimits.shedding import publication, rows, source
from ratelimits.shedding.policy import BUILT_IN
from ratelimits.tasks import reconcile_policies
from tests.ratelimits.console import NOWHERE, browser, fields_of, messages_of, person

LIST = "admin:ratelimits_loadsheddingpolicy_changelist"
CHANGE = "admin:ratelimits_loadsheddingpolicy_change"


def save(**changes: Any) -> LoadSheddingPolicy:
    row = LoadSheddingPolicy.the_row()
    for name, value in changes.items():
        setattr(row, name, value)
    row.full_clean()
    row.save()
    return row


@pytest.mark.django_db(transaction=True)
def test_the_defaults_are_what_is_built_in_and_a_save_is_published(redis_client: Any) -> None:
    row = LoadSheddingPolicy.the_row()
    assert row.as_policy() == BUILT_IN
    assert publication.read(redis_client) is None
    save(memory_limit_percent=80)
    held = publication.read(redis_client)
    assert held is not None
    assert (held.version, held.memory_limit_percent) == (1, 80)
    assert LoadSheddingPolicy.objects.get().history.count() == 2


@pytest.mark.django_db(transaction=True)
def test_the_reconciler_puts_back_what_redis_lost_and_overrules_what_it_should_not_hold(redis_client: Any) -> None:
    row = save(connections_limit=500)
    redis_client.flushdb()
    reconcile_policies()
    assert publication.read(redis_client) == row.as_policy()
    from dataclasses import replace

    foreign = replace(BUILT_IN, version=7, connections_limit=1)
    assert publication.publish(redis_client, foreign).status == "in_force"
    assert rows.reconcile().status == "in_force"
    held = publication.read(redis_client)
    assert held is not None
    assert (held.version, held.connections_limit) == (8, 500)


@pytest.mark.django_db
def test_the_row_cannot_be_deleted_or_written_in_bulk(redis_url: str) -> None:
    row = LoadSheddingPolicy.the_row()
    for wrong in (
        row.delete,
        LoadSheddingPolicy.objects.all().delete,
        lambda: LoadSheddingPolicy.objects.update(active=False),
        lambda: LoadSheddingPolicy.objects.bulk_create([row]),
    ):
        with pytest.raises(Refused):
            wrong()
    assert LoadSheddingPolicy.objects.get().active


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"pressure_percent": 95}, "pressure_percent"),
        ({"low_share_percent": 80}, "low_share_percent"),
        ({"memory_limit_percent": 101}, "memory_limit_percent"),
        ({"path_prefixes": "zantara"}, "path_prefixes"),
        ({"path_prefixes": ["zantara."]}, "path_prefixes"),
        ({"exempt_roles": [1]}, "exempt_roles"),
        ({"controller": "magic"}, "controller"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(redis_url: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        save(**changes)
    assert field in caught.value.message_dict


@pytest.mark.django_db(transaction=True)
def test_an_operator_edits_the_row_and_hears_that_it_is_in_force(redis_client: Any) -> None:
    source.forget()  # a policy of an earlier test, which this process would put back into the emptied Redis
    redis_client.flushdb()
    client = browser(person("olga", "view_loadsheddingpolicy", "change_loadsheddingpolicy"))
    answer = client.get(reverse(LIST))
    assert answer.status_code == 302
    url = reverse(CHANGE, args=[1])
    assert answer.headers["Location"] == url
    page = client.get(url).content.decode()
    assert "growing chance of an early 503" in " ".join(page.split())
    form = fields_of(client, url, "loadsheddingpolicy_form")
    form |= {"connections_limit": "800", "exempt_roles": "AI Bridge/Tech Lead\nCEO"}
    saved = client.post(url, {**form, "_continue": "1"}, follow=True)
    assert any("In force as version 1" in text for text in messages_of(saved)), messages_of(saved)
    held = publication.read(redis_client)
    assert held is not None
    assert (held.connections_limit, held.exempt_roles) == (800, ("AI Bridge/Tech Lead", "CEO"))
    assert LoadSheddingPolicy.objects.get().history.first().history_user.username == "olga"  # type: ignore[union-attr]


@pytest.mark.django_db
def test_who_may_not_see_it_does_not(redis_url: str) -> None:
    assert browser(person("nils")).get(reverse(LIST)).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_with_redis_away_the_row_is_saved_and_not_yet_in_force(settings: Any, redis_url: str) -> None:
    settings.ZANTARA_REDIS_URL = NOWHERE
    row = save(lag_ms=30)
    assert row.version == 1
    assert rows.version_in_force() is None
    assert rows.reconcile().status == "unreachable"
