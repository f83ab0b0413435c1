"""The control plane's own database, restored while nothing runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backups.restore.aftermath import FENCE
from backups.restore.offline import KILL_POINTS
from backups.sources.pg_connect import Address
from tests.backups.restore.boxes import Box
from tests.backups.servers.postgres import run

Lived = tuple[Box, dict[str, str], dict[str, str]]
#: One worker runs them all: the template is made once.
pytestmark = pytest.mark.xdist_group("offline-restore")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Made once: an installation with a restore point of a busy moment, and one that knows of what came later."""
    box = Box(tmp_path_factory.mktemp("box") / "template")
    lived = box.do("live")
    return box, lived["first"], lived["second"]


@pytest.fixture
def lived_in(template: Lived, tmp_path: Path) -> Lived:
    return template[0].copy(tmp_path / "box"), template[1], template[2]


def test_an_offline_restore_replaces_the_database_and_makes_it_fit_to_run_on(
    lived_in: Lived,
) -> None:
    box, first, second = lived_in
    done = box.do("restore", name=first["name"])
    assert "refused" not in done, done
    assert (done["record_name"], done["prefix"], done["warnings"]) == (first["name"], first["prefix"], [])
    seen = box.do("look")
    # the data are those of the backup
    assert seen["users"] == ["before"]
    # revived runs are over, and say why
    reason = f"aborted: restored from {first['name']}"
    assert seen["backups"][first["queued"]] == ["failed", reason, ""]
    assert seen["backups"][first["running"]] == ["failed", reason, ""]
    assert seen["proofs"] == ["cancelled", "cancelled"]
    assert seen["restores"] == {"r-0": "cancelled", "r-1": "cancelled", "r-2": "failed", "r-3": "failed"}
    assert sorted(done["aborted"]) == sorted(
        [first["queued"], first["running"], "r-0", "r-1", "r-2", "r-3", *[a for a in done["aborted"] if "proof" in a]]
    )
    # the set that the database comes from was being made in it, and is whole
    assert seen["backups"][first["name"]] == ["committed", "", first["prefix"]]
    # what came after the backup is known again from the store
    assert done["catalogued"] == [second["name"]]
    assert seen["backups"][second["name"]] == ["committed", "", second["prefix"]]
    # no worker of the lost time can write
    assert_fenced(seen)
    assert box.do("stale_worker", name=first["running"]) == {"refused": 199}
    # limits are somebody else's business, who was told
    assert done["said"] == ["the restored limits are in force"]
    # the former database is kept, and nothing else lies about
    with closing(sqlite3.connect(done["former"])) as former:
        assert [row[0] for row in former.execute("SELECT username FROM auth_user ORDER BY username")] == [
            "before",
            "later",
        ]
    assert Path(done["former"]).name.startswith("controlplane.sqlite3.before-zantara-restore-")
    assert sorted(p.name for p in box.data.iterdir() if "restore" in p.name) == [Path(done["former"]).name, "restores"]
    assert seen["unfinished"] == []


def assert_fenced(seen: dict[str, Any]) -> None:
    """Rows of the backup have new tokens, rows that are younger have numbers that nothing ever had."""
    assert seen["leased"] == []
    assert len(seen["fences"]) >= 9
    assert [row for row in seen["fences"] if row[0] < FENCE and row[1] < FENCE] == []


def test_the_latest_set_is_found_without_a_name_and_one_by_its_folder(
    lived_in: Lived,
) -> None:
    box, first, second = lived_in
    assert box.do("restore", name="latest")["record_name"] == second["name"]
    assert box.do("look")["users"] == ["before", "later"]
    assert box.do("restore", name=first["prefix"])["record_name"] == first["name"]
    assert box.do("look")["users"] == ["before"]


def test_a_database_that_is_gone_or_ruined_comes_back(lived_in: Lived) -> None:
    box, _, second = lived_in
    for path in box.data.glob("controlplane.sqlite3*"):
        path.unlink()
    done = box.do("restore", name="latest")
    assert (done["record_name"], done["former"]) == (second["name"], "")
    box.database.write_bytes(b"this is no database at all" * 1000)
    for path in box.data.glob("controlplane.sqlite3-*"):
        path.unlink()
    done = box.do("restore", name="latest")
    assert Path(done["former"]).read_bytes().startswith(b"this is no database")
    assert box.do("look")["users"] == ["before", "later"]


def test_a_new_machine_has_only_the_store_the_keys_and_the_recovery_key(lived_in: Lived, tmp_path: Path) -> None:
    box, first, _ = lived_in
    other = Box(tmp_path / "other")
    shutil.copytree(box.data / "secrets", tmp_path / "carried")
    shutil.copytree(box.store, other.store, dirs_exist_ok=True)
    shutil.rmtree(box.data)  # the machine is gone
    trusted = other.data / "secrets" / "trusted"
    trusted.mkdir()
    shutil.copy(tmp_path / "carried" / "manifest_signing_key.pub", trusted / "old.pub")
    shutil.copy(tmp_path / "carried" / "fields_key", other.data / "secrets" / "fields_key")
    other.identity = tmp_path / "carried" / "recovery_key.txt"
    other.do("bootstrap")
    done = other.do("restore", name=first["name"])
    assert done.get("record_name") == first["name"], done
    seen = other.do("look")
    assert seen["users"] == ["before"]
    assert len([name for name, (state, _, _) in seen["backups"].items() if state == "committed"]) == 2


def refused(box: Box, name: str = "latest", **given: str) -> str:
    before = box.database.read_bytes()
    answer = box.do("restore", name=name, **given)
    assert "refused" in answer, answer
    assert box.database.read_bytes() == before
    assert [p.name for p in box.data.iterdir() if ".restore-" in p.name or ".before-" in p.name] == []
    return str(answer["why"])


def test_while_the_stack_runs_nothing_is_touched(lived_in: Lived) -> None:
    box, _, _ = lived_in
    (box.data / "run").mkdir(exist_ok=True)
    with (box.data / "run" / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "The stack runs on this data directory" in refused(box)


def test_while_anybody_has_the_database_open_nothing_is_touched(
    lived_in: Lived,
) -> None:
    box, _, _ = lived_in
    with closing(sqlite3.connect(box.database)) as connection:
        connection.execute("SELECT count(*) FROM auth_user").fetchone()
        assert f"({os.getpid()})" in refused(box)


def test_wrong_names_wrong_parts_and_wrong_keys_are_refused(lived_in: Lived, tmp_path: Path) -> None:
    import pyrage

    box, _, _ = lived_in
    assert "holds no committed restore point 'nope'" in refused(box, "nope")
    assert "is of kind files" in refused(box, artifact="tree")
    assert "holds no other" in refused(box, artifact="other")
    box.identity = tmp_path / "other.txt"
    box.identity.write_text(f"{pyrage.x25519.Identity.generate()}\n")
    assert "none of those that the set was encrypted to" in refused(box)


def test_a_database_of_a_newer_release_is_put_back(lived_in: Lived) -> None:
    box, _, _ = lived_in
    box.do("from_the_future")
    newer = box.do("back_up")
    with closing(sqlite3.connect(box.database)) as connection:
        connection.execute("DELETE FROM django_migrations WHERE name = '9999_later'")
        connection.commit()
    box.do("write", user="last")
    answer = box.do("restore", name=newer["name"])
    assert answer["refused"] == "RestoreFailed"
    assert "was made by a newer release (it has backups.9999_later)" in answer["why"]
    seen = box.do("look")
    assert seen["users"] == ["before", "last", "later"]
    assert seen["unfinished"] == []


def test_damage_in_the_store_leaves_the_database_as_it_is(
    lived_in: Lived,
) -> None:
    box, _, second = lived_in
    part = next((box.store / second["prefix"] / "control-plane-database").glob("part-*"))
    body = bytearray(part.read_bytes())
    body[-30] ^= 4
    part.write_bytes(bytes(body))
    assert "part-00001.age" in refused(box)


def test_a_database_on_a_server_is_restored_and_the_former_one_kept(
    tmp_path: Path, postgres_database: Callable[[], Address]
) -> None:
    address = postgres_database()
    where = "&".join(f"{name}={address.parameters[name]}" for name in ("host", "port") if name in address.parameters)
    url = f"postgres://{address.parameters['user']}@/{address.database}?{where}"
    box = Box(tmp_path / "box", database_url=url)
    lived = box.do("live")
    first, second = lived["first"], lived["second"]
    with address.connect():
        answer = box.do("restore", name=first["name"])
        assert "The control plane's database is in use by zantara-backup" in answer.get("why", ""), answer
    assert box.do("look")["users"] == ["before", "later"]
    done = box.do("restore", name=first["name"])
    assert (done.get("record_name"), done.get("warnings")) == (first["name"], []), done
    seen = box.do("look")
    assert (seen["users"], seen["unfinished"]) == (["before"], [])
    assert seen["backups"][second["name"]][0] == "committed"
    assert seen["backups"][first["running"]][0] == "failed"
    assert_fenced(seen)
    former = done["former"].removeprefix("the database ")
    run(address, f'ALTER DATABASE "{former}" ALLOW_CONNECTIONS true')  # nobody gets into it by mistake
    assert run(address.at(former), "SELECT username FROM auth_user ORDER BY username") == [("before",), ("later",)]


@pytest.mark.faults
@pytest.mark.parametrize("point", KILL_POINTS)
def test_an_offline_restore_that_was_killed_is_settled_by_the_next(lived_in: Lived, point: str) -> None:
    box, first, second = lived_in
    box.kill_at(point, "restore", name=first["name"])
    done = box.do("restore", name=first["name"])
    assert done.get("record_name") == first["name"], done
    seen = box.do("look")
    assert seen["users"] == ["before"]
    assert seen["backups"][second["name"]][0] == "committed"
    assert {state for state, _, _ in seen["backups"].values()} == {"committed", "failed"}
    assert seen["unfinished"] == []
    assert_fenced(seen)
    assert list((box.data / "restores").glob("work/*")) == []
    assert [p.name for p in box.data.iterdir() if p.name.startswith(".controlplane")] == []


@pytest.mark.faults
@pytest.mark.parametrize(
    ("point", "users"),
    [
        ("offline_prepared", ["before", "later"]),
        ("offline_swapped", ["before", "later"]),
        ("offline_fenced", ["before"]),
    ],
)
def test_the_start_of_the_stack_can_settle_it_without_any_key(lived_in: Lived, point: str, users: list[str]) -> None:
    """Before the swap was complete it is undone, after it finished."""
    box, first, _ = lived_in
    box.kill_at(point, "restore", name=first["name"])
    box.identity.unlink()
    settled = box.do("start")
    assert (settled["before"], settled["after"]) == (True, False)
    finished = f"an interrupted restore of {first['name']} was finished"
    assert settled["said"] == (finished if users == ["before"] else "one was undone")
    assert [user for user in box.do("look")["users"] if user != "admin"] == users
    assert box.do("start")["said"] is None


def test_every_place_where_an_offline_restore_may_be_killed_is_killed() -> None:
    import re

    text = Path("backups/restore/offline.py").read_text()
    assert sorted(re.findall(r'step_reached\("(\w+)"\)', text)) == sorted(KILL_POINTS)
