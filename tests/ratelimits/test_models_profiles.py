from __future__ import annotations

import pytest
import redis
from django.core.exceptions import ValidationError

from controlplane.kernel.errors import Refused
from ratelimits import policies
from ratelimits.models import PolicyVersion, RateLimitProfile, StaleProfile

from .console import profile

pytestmark = pytest.mark.usefixtures("redis_url")


def test_each_save_and_delete_raises_the_version_and_writes_history(db: None) -> None:
    row = profile()
    first = row.version
    row.requests = 600
    row.save()
    assert (row.version, PolicyVersion.current(), row.history.count()) == (first + 1, first + 1, 2)
    pk = row.pk
    row.delete()
    assert PolicyVersion.current() == first + 2
    assert [h.history_type for h in RateLimitProfile.history.filter(id=pk)] == ["-", "~", "+"]


def test_a_bulk_delete_raises_the_version_publishes_and_writes_history(
    transactional_db: None, redis_client: redis.Redis
) -> None:
    ids = [profile(role).pk for role in ("CEO", "External")]
    before = PolicyVersion.current()
    assert RateLimitProfile.objects.filter(pk__in=ids).delete()[0] == 2
    assert PolicyVersion.current() == before + 1
    assert policies.version_in_force() == before + 1
    assert sorted(RateLimitProfile.history.filter(history_type="-").values_list("id", flat=True)) == ids


def test_bulk_writes_that_would_skip_history_are_refused_and_change_nothing(db: None) -> None:
    row = profile()
    before = PolicyVersion.current()
    for write in (
        lambda: RateLimitProfile.objects.update(requests=1),
        lambda: RateLimitProfile.objects.filter(pk=row.pk).update(requests=1),
        lambda: RateLimitProfile.objects.bulk_create([RateLimitProfile(role="Partner")]),
        lambda: RateLimitProfile.objects.bulk_update([row], ["requests"]),
    ):
        with pytest.raises(Refused):
            write()
    row.refresh_from_db()
    assert (row.requests, RateLimitProfile.objects.count(), PolicyVersion.current()) == (500, 1, before)


def test_a_save_with_some_fields_saves_the_version_too(db: None) -> None:
    row = profile()
    row.active = False
    row.save(update_fields=["active"])
    row.refresh_from_db()
    assert (row.active, row.version) == (False, PolicyVersion.current())


def test_a_saver_who_saw_an_older_version_is_refused_and_changes_nothing(db: None) -> None:
    row = profile()
    mine, theirs = RateLimitProfile.objects.get(pk=row.pk), RateLimitProfile.objects.get(pk=row.pk)
    seen = mine.version
    theirs.requests = 700
    theirs.save(expected_version=seen)
    before = PolicyVersion.current()
    mine.requests = 1
    with pytest.raises(StaleProfile, match="changed meanwhile"):
        mine.save(expected_version=seen)
    row.refresh_from_db()
    assert (row.requests, row.history.count(), PolicyVersion.current()) == (700, 2, before)


def test_a_deleted_profile_is_not_brought_back_by_a_save_that_expected_it(db: None) -> None:
    row = profile()
    seen = row.version
    RateLimitProfile.objects.get(pk=row.pk).delete()
    with pytest.raises(StaleProfile, match="deleted meanwhile"):
        row.save(expected_version=seen)
    assert not RateLimitProfile.objects.exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"role": "   "}, "role"),
        ({"route_prefix": "zantara"}, "route_prefix"),
        ({"route_prefix": "/a b"}, "route_prefix"),
        ({"route_prefix": "/a?b=1"}, "route_prefix"),
        ({"route_prefix": "/a\n"}, "route_prefix"),
        ({"requests": 0}, "requests"),
        ({"requests": 10_000_001}, "requests"),
        ({"window_seconds": 0}, "window_seconds"),
        ({"window_seconds": 31 * 86400 + 1}, "window_seconds"),
        ({"burst_requests": 5}, "burst_requests"),
        ({"burst_window_seconds": 5}, "burst_requests"),
        ({"burst_requests": 5, "burst_window_seconds": 900}, "burst_window_seconds"),
        ({"burst_requests": 501, "burst_window_seconds": 10}, "burst_requests"),
        ({"unlimited": True, "enforced": False}, "unlimited"),
        ({"key": "header"}, "key"),
        ({"fail_mode": "shrug"}, "fail_mode"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_field(db: None, changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        profile(**changes)
    assert field in refused.value.message_dict
    assert not RateLimitProfile.objects.exists()


def test_a_second_active_profile_for_the_same_callers_is_refused_but_a_shadow_or_an_inactive_one_is_not(
    db: None,
) -> None:
    profile()
    with pytest.raises(ValidationError, match="edit that one"):
        profile()
    profile(enforced=False)
    profile(active=False)
    profile(route_prefix="/zantara.")
    profile(subject="alice")
    assert RateLimitProfile.objects.count() == 5


def test_one_transaction_publishes_once_however_many_profiles_it_saves(
    redis_url: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import transaction

    from ratelimits import policies

    published: list[int] = []
    real = policies.publish_now
    monkeypatch.setattr(policies, "publish_now", lambda: published.append(1) or real())
    with transaction.atomic():
        for role in ("One", "Two", "Three"):
            RateLimitProfile.objects.create(role=role)
        assert published == []
    assert published == [1]


def test_a_rolled_back_savepoint_does_not_take_the_publication_with_it(
    redis_url: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import transaction

    from ratelimits import policies

    published: list[int] = []
    monkeypatch.setattr(policies, "publish_now", lambda: published.append(1))
    with transaction.atomic():
        undone = transaction.savepoint()
        RateLimitProfile.objects.create(role="Undone")
        transaction.savepoint_rollback(undone)
        RateLimitProfile.objects.create(role="Kept")
    assert published == [1]
    assert list(RateLimitProfile.objects.values_list("role", flat=True)) == ["Kept"]
