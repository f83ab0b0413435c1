from __future__ import annotations

import pytest

from backups.errors import Damaged, NoIdentity, StorageUnavailable
from backups.storage.local import LocalStorage
from backups.stream import canonical, get_expectations, put_expectations

from .tools import FOLDER, Hurt, Key, new_key

WANTED = {"tables": {"public.users": {"rows": 12, "sha256": "00"}}}


def test_canonical_json_has_one_form() -> None:
    assert canonical({"b": [1, 2.5, None, True], "a": "ä\n"}) == '{"a":"ä\\n","b":[1,2.5,null,true]}'.encode()
    with pytest.raises(ValueError):
        canonical({"a": float("nan")})


def test_a_changed_list_is_damage(store: LocalStorage, key: Key) -> None:
    ref = put_expectations(store, FOLDER, WANTED, [key.public])
    file = store.root / FOLDER / ref["object"]
    body = file.read_bytes()
    for spoiled in (body[:-1], body + b"x", body[:100] + bytes([body[100] ^ 1]) + body[101:], b""):
        file.write_bytes(spoiled)
        with pytest.raises(Damaged, match="was changed"):
            get_expectations(store, FOLDER, ref, key.identity)
    file.unlink()
    with pytest.raises(Damaged, match="is missing"):
        get_expectations(store, FOLDER, ref, key.identity)


def test_another_identity_is_told_apart_from_damage(store: LocalStorage, key: Key) -> None:
    ref = put_expectations(store, FOLDER, WANTED, [key.public])
    with pytest.raises(NoIdentity):
        get_expectations(store, FOLDER, ref, new_key().identity)


def test_a_store_that_is_away_is_not_damage(store: LocalStorage, key: Key) -> None:
    ref = put_expectations(store, FOLDER, WANTED, [key.public])

    def away(*_: object, **__: object) -> None:
        raise StorageUnavailable("The store is away.")

    for call in ("stat", "get"):
        hurt = Hurt(store, **{call: away})
        with pytest.raises(StorageUnavailable):
            get_expectations(hurt, FOLDER, ref, key.identity)
        assert call in hurt.calls
