"""A PostgreSQL database as a part of a restore: swapped by renaming, and put back by renaming."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backups.models import BackupSource
from backups.restore.preview import preview
from backups.restore.requests import request_restore
from backups.restore.run import run_restore
from backups.sources.pg_connect import Address
from tests.backups import factories
from tests.backups.restore.conftest import Living
from tests.backups.servers.postgres import run


@pytest.fixture
def people(living: Living, postgres_database: Callable[[], Address]) -> Address:
    """A database with a restore point, changed since."""
    address = postgres_database()
    run(address, "CREATE TABLE people (id int PRIMARY KEY, name text)")
    run(address, "INSERT INTO people SELECT n, 'name ' || n FROM generate_series(1, 300) n")
    settings = {"connection": "server", "database": address.database, **address.parameters}
    settings.pop("dbname")
    source = BackupSource.objects.create(name="people", kind="postgres", settings=settings)
    living.plan.sources.add(source)
    living.record = factories.run_now(living.plan)
    assert living.record.state == "committed", living.record.error
    run(address, "DELETE FROM people WHERE id > 100")
    run(address, "CREATE TABLE later (id int)")
    return address


def databases(address: Address) -> list[str]:
    rows = run(address, "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")
    return [name for (name,) in rows if name.startswith(address.database)]


def ask(living: Living, *names: str) -> int:
    return request_restore(
        living.record, artifacts=names, requested_by="ops", reason="a test", send=False, options={"databases": True}
    ).pk


def test_a_database_on_a_server_comes_back_with_its_files(living: Living, people: Address) -> None:
    assert preview(living.record, ["people"]).refusals == ()
    ended = run_restore(ask(living, "people", "config"), owner="w", patience_seconds=1)
    assert ended is not None
    assert (ended.state, ended.error) == ("done", "")
    assert run(people, "SELECT count(*), max(id) FROM people") == [(300, 300)]
    assert run(people, "SELECT to_regclass('later')") == [(None,)]
    assert databases(people) == [people.database]


def test_a_database_on_a_server_is_put_back_when_the_system_is_unwell(living: Living, people: Address) -> None:
    living.change()
    living.unwell_when_restored()
    ended = run_restore(ask(living, "people", "config"), owner="w", patience_seconds=0.2)
    assert ended is not None
    assert ended.state == "rolled_back", ended.error
    assert run(people, "SELECT count(*), max(id) FROM people") == [(100, 100)]
    assert run(people, "SELECT to_regclass('later')::text") == [("later",)]
    assert databases(people) == [people.database]


def test_where_the_database_cannot_be_renamed_back_its_safety_backup_takes_its_place(
    living: Living, people: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backups.sources.pg_restorer import PostgresRestorer

    def broken(self: PostgresRestorer) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(PostgresRestorer, "undo", broken)
    living.change()
    living.unwell_when_restored()
    ended = run_restore(ask(living, "people", "config"), owner="w", patience_seconds=0.2)
    assert ended is not None
    assert ended.state == "rolled_back", ended.error
    assert ("undo_from_safety_backup", "people", "done") in [
        (step["step"], step["artifact"], step["status"]) for step in ended.steps
    ]
    assert run(people, "SELECT count(*), max(id) FROM people") == [(100, 100)]
    assert databases(people) == [people.database]
