"""Old checkouts go, the oldest first; never one that is in use or may be gone back to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kernel import clock
from deployments.models import Deployment, ServiceState
from deployments.pipeline.fetch import checkout_path, fetched, releases_folder, result_path
from deployments.pipeline.folder import write_json
from deployments.pipeline.prune import Checkout, clear, prunable, prune, set_aside
from tests.deployments.factories import make_release, make_service

from .conftest import names_in

checkouts = st.lists(
    st.builds(Checkout, st.text("abc", min_size=1, max_size=4), st.integers(0, 9), st.booleans()),
    max_size=12, unique_by=lambda one: one.version,
)  # fmt: skip


@given(checkouts, st.integers(0, 15))
def test_what_goes_is_old_and_in_nobodys_use(all_of_them: list[Checkout], keep: int) -> None:
    gone = prunable(all_of_them, keep)
    by_version = {one.version: one for one in all_of_them}
    assert all(not by_version[version].in_use for version in gone)
    assert len(all_of_them) - len(gone) >= min(keep, len(all_of_them))
    ages = [by_version[version].made_at for version in gone]
    assert ages == sorted(ages)
    stay = [one for one in all_of_them if one.version not in gone]
    assert all(one.in_use or sum(other.made_at > one.made_at for other in all_of_them) < keep for one in stay)


def test_the_newest_stay() -> None:
    some = [Checkout(str(number), number, in_use=number == 2) for number in range(1, 7)]
    assert prunable(some, 2) == ["1", "3", "4"]
    assert prunable(some, 6) == []


def make_checkout(version: str, age: int) -> Path:
    place = checkout_path("shop", version)
    place.mkdir(parents=True)
    (place / "app.py").touch()
    note = result_path("shop", version)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"digest": version, "files": 1, "bytes": 0})
    then = clock.now().timestamp() - age
    os.utime(place, (then, then))
    return place


@pytest.mark.django_db
def test_a_service_keeps_what_serves_what_served_last_and_what_is_on_its_way() -> None:
    service = make_service("shop", keep_releases=2)
    releases = {version: make_release(service, version) for version in ("1", "2", "3", "4", "5", "6", "7")}
    for age, version in enumerate(reversed(releases)):
        make_checkout(version, age * 100)
    state = ServiceState.objects.get(service=service)
    state.previous, state.current = releases["1"], releases["2"]
    state.save()
    Deployment.objects.create(
        name="deploy-1", service=service, release=releases["4"], state="paused", trigger="manual",
        created_at=clock.now(),
    )  # fmt: skip
    killed, abandoned = releases_folder("shop") / ".removed-x", releases_folder("shop") / ".incoming-x"
    fetching = releases_folder("shop") / ".incoming-y"
    for folder in (killed, abandoned, fetching):
        folder.mkdir()
    os.utime(abandoned, (1, 1))
    assert prune(service) == ["3", "5"]
    assert sorted(path.name for path in releases_folder("shop").iterdir()) == [".incoming-y", "1", "2", "4", "6", "7"]
    assert not result_path("shop", "3").exists()
    assert result_path("shop", "4").exists()
    assert prune(service) == []


@pytest.mark.django_db
def test_what_is_set_aside_is_gone_at_once_and_deleted_later() -> None:
    service = make_service("shop")
    for age, version in enumerate(("3", "2", "1")):
        make_checkout(version, age * 100)
    assert set_aside(service, keep=1) == ["1", "2"]
    assert fetched("shop", "2") is None
    assert fetched("shop", "3") is not None
    assert len(names_in(releases_folder("shop"))) == 3
    clear(service)
    assert names_in(releases_folder("shop")) == ["3"]


@pytest.mark.django_db
def test_the_logs_of_deployments_that_are_not_known_any_more_go() -> None:
    service = make_service("shop")
    release = make_release(service, "1")
    Deployment.objects.create(
        name="deploy-7", service=service, release=release, state="failed", trigger="manual", created_at=clock.now()
    )
    runs = releases_folder("shop").parent / "runs"
    for name in ("deploy-7", "deploy-6"):
        (runs / name / "check-000-1").mkdir(parents=True)
    prune(service)
    assert names_in(runs) == ["deploy-7"]


@pytest.mark.django_db
def test_a_service_without_checkouts_has_nothing_to_lose() -> None:
    assert prune(make_service("shop")) == []
