"""Groups hold permissions that no model declares; a drill's scratch database must have them too."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType

from backups.sources.base import Place
from backups.sources.userdata import UserDataSource


@pytest.fixture
def own_permission(db: None) -> Permission:
    kind = ContentType.objects.get(app_label="auth", model="user")
    permission: Permission = Permission.objects.create(codename="wave_at_user", name="Can wave", content_type=kind)
    return permission


def test_a_group_with_a_permission_that_no_model_declares_passes_its_drill(
    own_permission: Permission, tmp_path: Path
) -> None:
    group = Group.objects.create(name="Wavers")
    group.permissions.add(own_permission)
    source = UserDataSource("people", UserDataSource.clean({"labels": "auth.Group"}, {}), {})
    (tmp_path / "scratch").mkdir()
    with source.capture(now=None, scratch=tmp_path / "scratch") as capture:  # type: ignore[arg-type]  # not looked at
        body = list(capture.chunks())
        captured = capture.finish()
    assert b"wave_at_user" in b"".join(body)
    place = Place(tmp_path / "place", "token")
    place.path.mkdir()
    found = source.drill(iter(body), captured.expectations, place)
    assert [(finding.status, finding.detail) for finding in found] == [("pass", "1 rows are exactly as they were")]
