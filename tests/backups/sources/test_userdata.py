"""User data: Django's own JSON lines, put back through the models' own save, with history."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.models import Group, Permission
from django.db import connection

from backups.errors import CaptureFailed, RestoreFailed
from backups.sources.base import Place, Restorer
from backups.sources.userdata import DEFAULT_LABELS, UserDataSource
from backups.sources.userdata_rows import entries_of, line_of, read_rows
from controlplane.kernel.errors import Refused
from tests.backups.contracts.taking import Taken, assert_good, drill, failing, fresh, pieces, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_url")]

User = get_user_model()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(autouse=True)
def people() -> None:
    """Two people, a group with a permission, and two profiles; nothing of what migrations or other tests left."""
    Profile = profiles()
    for profile in Profile.objects.all():
        profile.delete()
    User.objects.all().delete()
    Group.objects.all().delete()
    group = Group.objects.create(name="Operators")
    group.permissions.add(Permission.objects.get(codename="view_user"))
    one = User.objects.create_user("one", "one@example.test", "a long password")
    one.groups.add(group)
    User.objects.create_user("two", "two@example.test", "another password", first_name="Ünï ‘quoted’ \u2028")
    Profile.objects.create(role="CEO", requests=500)
    Profile.objects.create(role="External", requests=50, note="line\nline")


def profiles() -> Any:
    return apps.get_model("ratelimits.RateLimitProfile")


def source(**settings: Any) -> UserDataSource:
    return UserDataSource("people", UserDataSource.clean(settings, {}), {})


def prepared(taken: Taken, folder: Path, **settings: Any) -> Restorer:
    restorer = source(**settings).restorer(Place(fresh(folder, "restore"), "token"))
    restorer.prepare(pieces(taken.data))
    assert_good(restorer.validate(taken.expectations))
    return restorer


def test_users_groups_and_profiles_are_saved_by_default(folder: Path) -> None:
    taken = take(source(), folder)
    assert source().settings["labels"] == list(DEFAULT_LABELS)
    assert taken.captured.summary == {
        "rows": 5, "auth.group": 1, "auth.user": 2, "ratelimits.ratelimitprofile": 2,
    }  # fmt: skip
    assert list(taken.expectations["models"]["auth.user"]) == ["one", "two"]
    assert taken.data.count(b"\n") == 5


def test_a_password_still_opens_after_the_restore_and_nothing_of_it_is_in_the_summary(folder: Path) -> None:
    taken = take(source(), folder)
    User.objects.get(username="one").delete()
    restorer = prepared(taken, folder)
    restorer.swap()
    assert authenticate(username="one", password="a long password") is not None
    restored = User.objects.get(username="one")
    assert [group.name for group in restored.groups.all()] == ["Operators"]
    assert "pbkdf2" not in str(taken.captured.summary) + str(taken.expectations)


def test_rows_that_are_equal_are_not_touched_and_changed_ones_get_a_line_of_history(folder: Path) -> None:
    Profile = profiles()
    taken = take(source(), folder)
    ceo, external = Profile.objects.get(role="CEO"), Profile.objects.get(role="External")
    ceo.requests = 1
    ceo.save()
    lines = external.history.count()
    prepared(taken, folder).swap()
    ceo.refresh_from_db()
    assert ceo.requests == 500
    assert ceo.history.first().history_change_reason == "Restored from a backup"
    after = Profile.objects.get(role="External")
    assert (after.version, after.history.count()) == (external.version, lines)


def test_restored_limits_are_published(folder: Path, redis_client: Any) -> None:
    from ratelimits import policies

    taken = take(source(), folder)
    profiles().objects.get(role="CEO").delete()
    policies.publish_now()
    before = policies.version_in_force()
    prepared(taken, folder).swap()
    after = policies.version_in_force()
    assert before is not None
    assert after is not None
    assert after > before


def test_the_trial_in_validate_changes_nothing(folder: Path) -> None:
    taken = take(source(), folder)
    User.objects.get(username="one").delete()
    before = (User.objects.count(), profiles().history.count())
    prepared(taken, folder)
    assert (User.objects.count(), profiles().history.count()) == before


def test_a_row_whose_place_is_taken_fails_before_anything_is_touched(folder: Path) -> None:
    Profile = profiles()
    taken = take(source(), folder)
    Profile.objects.get(role="CEO").delete()
    Profile.objects.create(role="CEO", requests=7)
    restorer = source().restorer(Place(fresh(folder, "restore"), "token"))
    restorer.prepare(pieces(taken.data))
    assert "do not go into the live database" in failing(restorer.validate(taken.expectations))
    with pytest.raises(RestoreFailed, match="do not go into"):
        restorer.swap()
    assert Profile.objects.get(role="CEO").requests == 7
    restorer.undo()
    restorer.discard()
    assert Profile.objects.get(role="CEO").requests == 7
    exactly = prepared_exactly(taken, folder)
    assert exactly == 500


def prepared_exactly(taken: Taken, folder: Path) -> int:
    """What is not in the backup goes first, so its place is free."""
    prepared(taken, folder, exact=True).swap()
    return int(profiles().objects.get(role="CEO").requests)


def test_rows_that_came_since_stay_unless_exactness_is_wanted(folder: Path) -> None:
    taken = take(source(), folder)
    User.objects.create_user("three")
    restorer = prepared(taken, folder)
    restorer.swap()
    assert User.objects.filter(username="three").exists()
    restorer.discard()
    restorer = prepared(taken, folder, exact=True)
    restorer.swap()
    assert not User.objects.filter(username="three").exists()
    number = User.objects.get(username="one").pk
    restorer.undo()
    assert User.objects.filter(username="three").exists()
    assert User.objects.get(username="one").pk == number


def test_numbers_go_on_after_restored_rows(folder: Path) -> None:
    """PostgreSQL's counters know nothing of rows that came with their numbers."""
    Profile = profiles()
    taken = take(source(), folder)
    for profile in Profile.objects.all():
        profile.delete()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval(pg_get_serial_sequence('ratelimits_ratelimitprofile', 'id'), 1, false)")
    prepared(taken, folder).swap()
    assert Profile.objects.create(role="new").pk > max(Profile.objects.exclude(role="new").values_list("pk", flat=True))


def test_a_permission_that_this_release_lacks_fails_the_drill_by_name(folder: Path) -> None:
    gone = Permission.objects.create(
        codename="of_an_old_release", name="x", content_type=Permission.objects.get(codename="view_user").content_type
    )
    Group.objects.get(name="Operators").permissions.add(gone)
    taken = take(source(), folder)
    assert_good(drill(source(), taken, folder))
    gone.delete()
    said = failing(drill(source(), taken, folder))
    assert "auth.group Operators cannot be restored" in said


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["auth.Nobody"], "there is no model 'auth.Nobody'"),
        (["nonsense"], "there is no model 'nonsense'"),
        (["auth.User"], "auth.User refers to auth.Group"),
        (["auth.Permission"], "lies in other models"),
    ],
)
def test_labels_that_make_no_sense_are_refused(labels: list[str], said: str) -> None:
    with pytest.raises(Refused, match=said):
        source(labels=labels)


def test_models_are_ordered_so_that_what_others_refer_to_comes_first(folder: Path) -> None:
    taken = take(source(labels="auth.User\nauth.Group\n"), folder)
    assert taken.data.split(b'"model":"')[1].startswith(b"auth.group")


def test_no_row_at_all_is_a_failure(folder: Path) -> None:
    User.objects.all().delete()
    Group.objects.all().delete()
    with pytest.raises(CaptureFailed, match="no row of auth"):
        take(source(labels=["auth.User", "auth.Group"]), folder)


def test_all_rows_are_of_one_moment(folder: Path) -> None:
    """A writer moves one unit between two profiles in a transaction, all the time: the sum never changes."""
    from django.db import transaction

    Profile = profiles()
    stop = threading.Event()
    moved = []

    def move() -> None:
        try:
            while not stop.is_set():
                with transaction.atomic():
                    one, two = Profile.objects.select_for_update().order_by("pk")
                    one.requests, two.requests = one.requests - 1, two.requests + 1
                    one.save()
                    two.save()
                moved.append(1)
                stop.wait(0.002)
        finally:
            connection.close()

    pool = ThreadPoolExecutor(1)
    moving = pool.submit(move)
    try:
        for _ in range(8):
            count = len(moved)
            taken = take(source(labels=["ratelimits.RateLimitProfile"]), folder)
            rows = [line for line in taken.data.decode().splitlines() if line]
            assert sum(int(row.partition('"requests":')[2].partition(",")[0]) for row in rows) == 550
            deadline = time.monotonic() + 60
            while len(moved) == count:
                if moving.done() or time.monotonic() > deadline:
                    moving.result(timeout=0)  # raises why nobody writes
                stop.wait(0.01)
    finally:
        stop.set()
        pool.shutdown()
    moving.result()
    assert len(moved) >= 8


def test_stock_django_loads_the_stream(folder: Path, settings: Any) -> None:
    """``manage.py loaddata`` reads it into the database of another, fresh installation."""
    taken = take(source(), folder)
    assert UserDataSource.stock_command() == "manage.py loaddata --format=jsonl -"
    data = fresh(folder, "other")
    script = (
        "import django, sys; django.setup()\n"
        "from django.core.management import call_command\n"
        "call_command('migrate', verbosity=0)\n"
        "call_command('loaddata', '-', format='jsonl', verbosity=0)\n"
        "from django.contrib.auth.models import User\n"
        "print(sorted((u.username, [g.name for g in u.groups.all()]) for u in User.objects.all()))\n"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ZANTARA_")},
        "ZANTARA_DATA_DIR": str(data), "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        "ZANTARA_SECRET_KEY": "x" * 60, "ZANTARA_REDIS_URL": os.environ["ZANTARA_REDIS_URL"],
    }  # fmt: skip
    answer = subprocess.run(
        [sys.executable, "-c", script], input=taken.data, capture_output=True, env=environment, check=False,
        cwd=settings.BASE_DIR,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr.decode()[-2000:]
    assert answer.stdout.decode().splitlines()[-1] == "[('one', ['Operators']), ('two', [])]"


def test_rows_of_a_release_that_lacked_a_field_still_prove_and_come_back(folder: Path) -> None:
    rows = list(read_rows([take(source(), folder).data]))
    for row in rows:
        if row["model"] == "ratelimits.ratelimitprofile":
            assert row["fields"].pop("note") is not None
    data = "".join(line_of(row) + "\n" for row in rows).encode()
    expectations = {"format": 1, "bytes": len(data), "models": entries_of(rows)}

    assert_good(source().drill(pieces(data), expectations, Place(fresh(folder, "drill"), "token")))
    restorer = source().restorer(Place(fresh(folder, "restore"), "token"))
    restorer.prepare(pieces(data))
    assert_good(restorer.validate(expectations))

    rows[0]["fields"]["name"] = "Somebody else"
    changed = "".join(line_of(row) + "\n" for row in rows).encode()
    assert failing(source().drill(pieces(changed), expectations, Place(fresh(folder, "changed"), "token")))
