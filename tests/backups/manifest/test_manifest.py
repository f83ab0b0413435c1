"""The manifest: who signed it, whether it is the committed one, and what makes it unbelievable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from backups import keys
from backups.errors import Damaged, ObjectMissing, StorageUnavailable
from backups.manifest import (
    Manifest,
    ManifestArtifact,
    check_commit,
    commit_body,
    from_dict,
    load_set,
    open_signed,
    set_prefix,
    sign,
    to_dict,
)
from backups.storage.local import LocalStorage
from backups.stream import Part, Stored, canonical
from controlplane.kernel.errors import NotAuthentic, Refused

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
TRUSTED = {keys.key_id(KEY.public_key()): KEY.public_key()}
AT = datetime(2026, 11, 23, 2, 0, 0, 123456, UTC)
SET_ID = "0193547e-0000-7000-8000-000000000001"
PREFIX = f"sets/zantara/2026/11/{SET_ID}"


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def artifact(name: str = "configuration", **changes: Any) -> ManifestArtifact:
    stored = Stored(
        plain_bytes=100, plain_sha256=digest("p"), compressed=True, compressed_bytes=50, stored_bytes=300,
        stored_sha256=digest("s"),
        parts=(Part("part-00001.age", 200, digest("1")), Part("part-00002.age", 100, digest("2"))),
    )  # fmt: skip
    wanted: dict[str, Any] = {
        "name": name, "kind": "files", "position": 1, "settings": {"globs": [".env"]}, "captured_from_at": AT,
        "captured_to_at": AT, "tools": {"tar": "1.34"}, "summary": {"files": 3}, "warnings": ("ä is missing",),
        "expectations": {"object": "expectations.json.zst.age", "size": 12, "sha256": digest("e")},
    }  # fmt: skip
    return replace(ManifestArtifact.of(stored, **wanted), **changes)


def manifest(**changes: Any) -> Manifest:
    wanted: dict[str, Any] = {
        "set_id": SET_ID, "name": "zantara-backup-2026-11-23", "plan": "zantara", "trigger": "schedule",
        "requested_by": "", "scheduled_for": AT, "started_at": AT, "committed_at": AT + timedelta(minutes=3),
        "producer": "zantara 0.1.0", "recipients": ("age1x", "age1y"), "artifacts": (artifact(), artifact("logs")),
    }  # fmt: skip
    return Manifest(**{**wanted, **changes})


def test_a_signed_manifest_is_read_back_as_it_was() -> None:
    assert open_signed(sign(manifest(), KEY), TRUSTED) == manifest()
    assert from_dict(to_dict(manifest())) == manifest()


def test_times_are_kept_in_utc() -> None:
    berlin = AT.astimezone(timezone(timedelta(hours=1)))
    assert to_dict(manifest(started_at=berlin))["started_at"] == "2026-11-23T02:00:00.123456+00:00"
    assert open_signed(sign(manifest(scheduled_for=None), KEY), TRUSTED).scheduled_for is None


def test_the_document_is_canonical_and_verifies_with_nothing_but_the_public_key() -> None:
    import base64

    document = sign(manifest(), KEY)
    envelope = json.loads(document)
    assert sorted(envelope) == ["key_id", "manifest", "signature"]
    assert canonical(envelope) == document
    KEY.public_key().verify(base64.b64decode(envelope["signature"]), canonical(envelope["manifest"]))


def test_a_manifest_of_a_stranger_is_not_authentic() -> None:
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(NotAuthentic, match="not trusted here"):
        open_signed(sign(manifest(), stranger), TRUSTED)
    document = json.loads(sign(manifest(), stranger))
    document["key_id"] = next(iter(TRUSTED))
    with pytest.raises(NotAuthentic, match="signature does not hold"):
        open_signed(canonical(document), TRUSTED)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(plan="other"),
        lambda m: m["artifacts"][0].update(plain_bytes=101),
        lambda m: m["artifacts"].pop(),
        lambda m: m["artifacts"].reverse(),
        lambda m: m["artifacts"][0]["parts"].pop(),
        lambda m: m["artifacts"][0]["settings"].update(base="/etc"),
        lambda m: m.update(added=1),
        lambda m: m.pop("requested_by"),
    ],
)
def test_any_change_breaks_the_signature(change: Callable[[dict[str, Any]], Any]) -> None:
    envelope = json.loads(sign(manifest(), KEY))
    change(envelope["manifest"])
    with pytest.raises(NotAuthentic):
        open_signed(canonical(envelope), TRUSTED)


@given(st.binary(max_size=300))
def test_nonsense_is_damage_and_never_another_error(body: bytes) -> None:
    with pytest.raises(Damaged):
        open_signed(body, TRUSTED)
    with pytest.raises(Damaged):
        check_commit(body, sign(manifest(), KEY))


@given(st.data())
def test_a_flipped_bit_anywhere_in_the_document_is_found(data: st.DataObject) -> None:
    document = bytearray(sign(manifest(), KEY))
    commit = commit_body(bytes(document))
    place = data.draw(st.integers(0, len(document) - 1))
    document[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Damaged, match="not the one that was committed"):
        check_commit(commit, bytes(document))
    with pytest.raises((Damaged, NotAuthentic)):
        open_signed(bytes(document), TRUSTED)


def resigned(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Signed by the right key, and wrong: what a defect of ours would write."""
    import base64

    body = to_dict(manifest())
    change(body)
    signature = base64.b64encode(KEY.sign(canonical(body))).decode()
    return canonical({"key_id": next(iter(TRUSTED)), "manifest": body, "signature": signature})


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(artifacts=[]),
        lambda m: m.pop("artifacts"),
        lambda m: m.pop("started_at"),
        lambda m: m.update(started_at="2026-11-23T02:00:00"),
        lambda m: m.update(started_at=12),
        lambda m: m.update(set_id="../../etc"),
        lambda m: m["artifacts"][1].update(name="configuration"),
        lambda m: m["artifacts"][0].update(name="../x"),
        lambda m: m["artifacts"][0].update(plain_bytes=-1),
        lambda m: m["artifacts"][0].update(plain_bytes="1"),
        lambda m: m["artifacts"][0].update(plain_sha256="x"),
        lambda m: m["artifacts"][0].update(parts=[]),
        lambda m: m["artifacts"][0]["parts"][0].update(name="../../part"),
        lambda m: m["artifacts"][0]["parts"][0].update(name="part-00002.age"),
        lambda m: m["artifacts"][0]["parts"][0].update(size=1),
        lambda m: m["artifacts"][0]["parts"][0].pop("sha256"),
        lambda m: m["artifacts"][0].pop("kind"),
        lambda m: m["artifacts"][0].update(expectations={}),
        lambda m: m["artifacts"][0]["expectations"].update(object="../../x"),
        lambda m: m["artifacts"][0]["expectations"].update(size="12"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused_though_it_is_signed(
    change: Callable[[dict[str, Any]], Any],
) -> None:
    with pytest.raises(Damaged):
        open_signed(resigned(change), TRUSTED)


def test_what_a_later_version_adds_does_not_make_a_set_unreadable() -> None:
    def add(body: dict[str, Any]) -> None:
        body["mood"] = "fine"
        body["artifacts"][0]["mood"] = "fine"

    assert open_signed(resigned(add), TRUSTED) == manifest()


def test_a_later_format_says_so() -> None:
    with pytest.raises(Refused, match=r"format 2.*version of Zantara that made it"):
        open_signed(resigned(lambda body: body.update(format=2)), TRUSTED)


def test_file_names_that_are_no_utf8_can_be_signed() -> None:
    odd = manifest(warnings=("\udcff vanished",))
    assert open_signed(sign(odd, KEY), TRUSTED) == odd


def test_where_a_set_is() -> None:
    late = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert set_prefix("zantara", AT, SET_ID) == PREFIX
    assert set_prefix("zantara", late, SET_ID) == f"sets/zantara/2026/11/{SET_ID}"


def test_what_a_set_consists_of() -> None:
    assert manifest().objects() == {
        f"{name}/{part}": size
        for name in ("configuration", "logs")
        for part, size in (("part-00001.age", 200), ("part-00002.age", 100), ("expectations.json.zst.age", 12))
    }
    assert manifest().artifact("logs").name == "logs"
    with pytest.raises(Refused, match=r"holds no 'x'.*configuration, logs"):
        manifest().artifact("x")


@pytest.fixture
def store(tmp_path: Path) -> LocalStorage:
    document = sign(manifest(), KEY)
    store = LocalStorage(tmp_path)
    store.put(f"{PREFIX}/manifest.json", document)
    store.put(f"{PREFIX}/COMMIT", commit_body(document))
    return store


def test_a_committed_set_is_loaded(store: LocalStorage) -> None:
    assert load_set(store, PREFIX, TRUSTED) == manifest()


def test_without_commit_a_set_does_not_exist(store: LocalStorage) -> None:
    store.delete([f"{PREFIX}/COMMIT"])
    with pytest.raises(ObjectMissing, match="does not exist"):
        load_set(store, PREFIX, TRUSTED)
    with pytest.raises(ObjectMissing, match="does not exist"):
        load_set(store, "sets/zantara/2026/11/none", TRUSTED)


def test_a_committed_set_without_manifest_is_damage(store: LocalStorage) -> None:
    store.delete([f"{PREFIX}/manifest.json"])
    with pytest.raises(Damaged, match="its manifest is missing"):
        load_set(store, PREFIX, TRUSTED)


def test_a_swapped_manifest_is_found(store: LocalStorage) -> None:
    """Authentic, but of another night: the older set would restore, silently."""
    other = sign(manifest(set_id="0193547e-0000-7000-8000-000000000002"), KEY)
    store.put(f"{PREFIX}/manifest.json", other)
    with pytest.raises(Damaged, match="not the one that was committed"):
        load_set(store, PREFIX, TRUSTED)
    store.put(f"{PREFIX}/COMMIT", commit_body(other))
    with pytest.raises(Damaged, match="that of another set"):
        load_set(store, PREFIX, TRUSTED)


def test_a_commit_of_another_set_is_found(store: LocalStorage) -> None:
    document = store.get(f"{PREFIX}/manifest.json")
    forged = json.loads(commit_body(document)) | {"set_id": "0193547e-0000-7000-8000-000000000002"}
    store.put(f"{PREFIX}/COMMIT", canonical(forged))
    with pytest.raises(Damaged, match="of another set"):
        load_set(store, PREFIX, TRUSTED)


def test_a_store_that_is_away_is_not_damage(store: LocalStorage) -> None:
    class Away:
        def get(self, key: str, *, most: int = 0) -> bytes:
            raise StorageUnavailable("The store is away.")

    with pytest.raises(StorageUnavailable):
        load_set(Away(), PREFIX, TRUSTED)  # type: ignore[arg-type]
