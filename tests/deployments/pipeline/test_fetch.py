"""A release's files come whole, once, and just as its source has them; or one sentence says what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import FetchFailed
from deployments.pipeline import fetch, runner
from deployments.pipeline.base import Findings, StepSpec
from deployments.pipeline.fetch import Fetched, FetchRequest, checkout_path, fetch_spec, fetched, releases_folder
from deployments.pipeline.fetching import fetch as fetch_here
from deployments.pipeline.steps import read_step

from .conftest import command_lines, ended, everything_in, names_in, until

SHARED = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *arguments], cwd=repository, env={**os.environ, **SHARED},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits on main, the first one tagged, a branch, and a hook that must never run."""
    place = tmp_path / "repository"
    place.mkdir()
    git(place, "init", "--quiet")
    (place / "app.py").write_text("print(1)\n")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "-m", "one")
    git(place, "tag", "-a", "v1", "-m", "the first")
    (place / "app.py").write_text("print(2)\n")
    (place / "more").mkdir()
    (place / "more" / "x.txt").write_text("x")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "-m", "two")
    git(place, "branch", "topic/a")
    return place


def run(spec: StepSpec | None, folder: Path) -> Findings:
    assert spec is not None
    runner.begin(spec, folder)
    seen = ended(folder)
    return read_step(spec.kind, runner.output_tail(folder), seen)


def request(source: Path | str, version: str = "1", **more: Any) -> FetchRequest:
    values = {"kind": "directory", "ref": "", "digest": ""}
    return FetchRequest(
        source=str(source), destination=str(checkout_path("shop", version)),
        result=str(fetch.result_path("shop", version)), **{**values, **more},
    )  # fmt: skip


def here(source: Path | str, version: str = "1", **more: Any) -> Fetched:
    return fetch_here(request(source, version, **more), say=lambda line: None)


def test_a_git_release_is_fetched_as_a_step(repository: Path, folder: Path) -> None:
    found = run(fetch_spec("shop", "2", source_kind="git", source=str(repository), ref="main"), folder)
    assert found.outcome == "passed"
    assert found.numbers == {"digest": git(repository, "rev-parse", "main"), "files": 2, "bytes": 10}
    assert fetched("shop", "2") == Fetched(**found.numbers)
    assert (checkout_path("shop", "2") / "app.py").read_text() == "print(2)\n"
    assert names_in(releases_folder("shop")) == ["2"]  # nothing half made is left


@pytest.mark.parametrize("ref", ["", "main", "topic/a", "v1", "v1^{}", "the first commit", "a part of its hash"])
def test_a_branch_a_tag_and_a_commit_are_found(repository: Path, ref: str) -> None:
    first, second = git(repository, "rev-parse", "v1^{commit}"), git(repository, "rev-parse", "main")
    ref = {"the first commit": first, "a part of its hash": first[:9]}.get(ref, ref)
    if ref == "v1^{}":
        with pytest.raises(FetchFailed, match="There is no branch, tag or commit"):
            here(repository, kind="git", ref=ref)
        return
    result = here(repository, kind="git", ref=ref)
    assert result.digest == (second if ref in ("", "main", "topic/a") else first)
    said = (checkout_path("shop", "1") / "app.py").read_text()
    assert said == ("print(2)\n" if result.digest == second else "print(1)\n")


def test_a_part_of_a_hash_is_found_at_a_server_too(repository: Path) -> None:
    first = git(repository, "rev-parse", "v1^{commit}")
    assert here(f"file://{repository}", kind="git", ref=first[:8]).digest == first


def test_hooks_of_the_workers_user_do_not_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "template" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (hooks / "post-checkout").chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(f"[init]\n templateDir = {tmp_path}/template\n[core]\n hooksPath = {hooks}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    here(repository, kind="git", ref="main")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("ref", "sentence"),
    [
        ("nowhere", "There is no branch, tag or commit nowhere in {repository}. Push it, or make a release of one"),
        ("deadbeef", "There is no branch, tag or commit deadbeef in {repository}. Push it, or make a release of one"),
        ("two words", "There is no branch, tag or commit two words in {repository}."),
    ],
)
def test_a_ref_that_is_not_there_fails_the_fetch(repository: Path, folder: Path, ref: str, sentence: str) -> None:
    found = run(fetch_spec("shop", "2", source_kind="git", source=str(repository), ref=ref), folder)
    assert found.outcome == "failed"
    assert found.summary.startswith(sentence.format(repository=repository))
    assert not checkout_path("shop", "2").exists()
    assert names_in(releases_folder("shop")) == []


@pytest.mark.parametrize(
    ("source", "ref", "sentence"),
    [
        ("--upload-pack=touch /tmp/x", "main", "'--upload-pack=touch /tmp/x' begins with a dash."),
        ("/srv/x.git", "--upload-pack=x", "'--upload-pack=x' begins with a dash. Name a branch, a tag or a commit."),
        ("ext::sh -c id", "main", "Git repositories are not fetched by ext. Use http, https, ssh, git or file."),
        ("ftp://host/x", "main", "Git repositories are not fetched by ftp. Use http, https, ssh, git or file."),
        ("relative/x.git", "main", "relative/x.git is neither an address nor an absolute path. Give https://…"),
        ("", "main", "The release has no readable source."),
        ("/srv/x\n.git", "main", "The release has no readable source."),
    ],
)
def test_a_source_that_can_never_be_fetched_is_told_before_anything_runs(source: str, ref: str, sentence: str) -> None:
    with pytest.raises(FetchFailed) as failed:
        fetch_spec("shop", "2", source_kind="git", source=source, ref=ref)
    assert str(failed.value).startswith(sentence)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/nowhere", "The repository /nowhere is no git repository. Correct the release's source."),
        ("http://127.0.0.1:9/x.git", "The repository http://127.0.0.1:9/x.git does not answer. See that this machine"),
        ("http://no-such-host.invalid/x.git", "The repository http://no-such-host.invalid/x.git is on a host whose"),
    ],
)
def test_a_repository_that_cannot_be_had_fails_with_what_to_do(source: str, sentence: str) -> None:
    with pytest.raises(FetchFailed) as failed:
        here(source, kind="git", ref="main")
    assert str(failed.value).startswith(sentence)


def test_a_password_in_the_address_is_on_no_command_line_and_on_no_disk(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://me:xyzzy%2042@127.0.0.1:{server.getsockname()[1]}/x.git"
        spec = fetch_spec("shop", "2", source_kind="git", source=address, ref="main")
        assert spec is not None
        assert "xyzzy" not in " ".join(spec.argv)
        assert spec.secrets == ("xyzzy 42", "xyzzy%2042")
        assert "xyzzy" not in repr(replace(spec, environ={}))
        runner.begin(spec, folder)
        connection, _ = server.accept()
        with connection:
            asked = connection.recv(65536).decode()
            lines = command_lines()
            assert "git-remote-http" in lines
            assert "xyzzy" not in lines
            connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert "Authorization: Basic bWU6eHl6enkgNDI=" in asked
    seen = ended(folder)
    found = read_step("fetch", runner.output_tail(folder), seen)
    assert found.outcome == "failed"
    assert found.summary.startswith("The repository http://127.0.0.1:")
    assert "xyzzy" not in everything_in(folder) + everything_in(releases_folder("shop").parent)


def test_a_second_fetch_of_a_version_changes_nothing_although_its_source_is_gone(
    repository: Path, tmp_path: Path
) -> None:
    first = here(repository, kind="git", ref="main")
    repository.rename(tmp_path / "elsewhere")
    inode = checkout_path("shop", "1").stat().st_ino
    assert here(repository, kind="git", ref="main", digest=first.digest) == first
    assert checkout_path("shop", "1").stat().st_ino == inode


def test_a_release_whose_checkout_was_removed_is_fetched_as_it_was(repository: Path) -> None:
    first = git(repository, "rev-parse", "v1^{commit}")
    assert here(repository, kind="git", ref="main", digest=first).digest == first  # main has moved on since


def test_a_checkout_that_is_something_else_is_not_taken_for_the_release(repository: Path) -> None:
    here(repository, kind="git", ref="v1")
    with pytest.raises(FetchFailed, match=r"and the release is 0{19}\. Somebody has changed it"):
        here(repository, kind="git", ref="v1", digest="0" * 40)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    for path, text in {
        "app.py": "1", "src/var/kept.txt": "kept", "src/node_modules/x.js": "x", "src/__pycache__/a.pyc": "x",
        "b.pyc": "x", ".git/HEAD": "x", ".venv/bin/python": "x", "venv/x": "x", "var/db": "x", ".mypy_cache/x": "x",
        "env/pyvenv.cfg": "x", "env/bin/python": "x", ".env": "KEPT=1",
    }.items():  # fmt: skip
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    (place / "app.py").chmod(0o755)
    (place / "empty").mkdir()
    (place / "link").symlink_to("app.py")
    (place / "absolute").symlink_to(place / "src")
    (place / "out").symlink_to("/etc/passwd")
    os.mkfifo(place / "pipe")
    return place


def test_a_directory_is_copied_without_what_is_made_again(tree: Path) -> None:
    result = here(tree)
    copy = checkout_path("shop", "1")
    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    assert found - {"absolute/var", "absolute/var/kept.txt"} == {
        ".env", "app.py", "src", "src/var", "src/var/kept.txt", "empty", "link", "absolute"
    }  # fmt: skip
    assert ((copy / "link").readlink(), (copy / "absolute").readlink()) == (Path("app.py"), Path("src"))
    assert os.access(copy / "app.py", os.X_OK)
    assert (result.files, result.bytes) == (3, 11)


def test_what_is_left_out_for_a_reason_is_said(tree: Path, folder: Path) -> None:
    assert run(fetch_spec("shop", "1", source_kind="directory", source=str(tree)), folder).outcome == "passed"
    said = runner.output_tail(folder)
    assert "left out: the link out leads out of the directory\n" in said
    assert "left out: pipe is neither a file nor a directory\n" in said


def test_the_same_tree_has_the_same_digest_and_another_one_has_not(tree: Path, tmp_path: Path) -> None:
    digest = here(tree).digest
    assert digest.startswith("sha256:")
    os.utime(tree / "app.py", (1, 1))
    (tree / "src" / "__pycache__" / "b.pyc").write_text("made again")
    assert here(tree, "2").digest == digest
    changes = {
        "content": lambda: (tree / "app.py").write_text("2"),
        "mode": lambda: (tree / "app.py").chmod(0o644),
        "name": lambda: (tree / ".env").rename(tree / ".env2"),
        "link": lambda: ((tree / "link").unlink(), (tree / "link").symlink_to("src")),
        "directory": (tree / "empty2").mkdir,
    }
    seen = {digest}
    for number, (what, change) in enumerate(changes.items(), start=3):
        change()
        seen.add(here(tree, str(number)).digest)
        assert len(seen) == number - 1, f"another {what} was not seen"


def test_a_directory_that_has_changed_since_is_not_the_release(tree: Path) -> None:
    digest = here(tree).digest
    (tree / "app.py").write_text("changed")
    with pytest.raises(FetchFailed, match="The source is not what it was when the release was made"):
        here(tree, "2", digest=digest)
    assert fetched("shop", "2") is None
    assert names_in(releases_folder("shop")) == ["1"]


def test_a_directory_that_holds_the_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=f"{tmp_path} holds the data directory of this installation"):
        here(tmp_path)


def test_but_not_where_the_data_directory_is_left_out_anyway(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZANTARA_DATA_DIR", str(tree / "var"))
    here(tree)
    assert (tree / "var" / "deployments" / "shop" / "releases" / "1" / "app.py").exists()
    assert not (tree / "var" / "deployments" / "shop" / "releases" / "1" / "var").exists()


def test_a_checkout_is_no_source(tree: Path) -> None:
    here(tree)
    with pytest.raises(FetchFailed, match="is itself a checkout of a release"):
        here(checkout_path("shop", "1"), "2")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/nowhere", "The directory /nowhere does not exist. Correct the release's source, or put it there."),
        ("/etc/hostname", "The directory /etc/hostname does not exist."),
        ("tree", "tree is no absolute path. Make a release with the whole path."),
    ],
)
def test_a_directory_that_cannot_be_had_fails_with_what_to_do(source: str, sentence: str) -> None:
    with pytest.raises(FetchFailed) as failed:
        here(source)
    assert str(failed.value).startswith(sentence)


def test_half_a_checkout_of_a_fetch_that_was_killed_is_made_anew(tree: Path) -> None:
    half = checkout_path("shop", "1")
    half.mkdir(parents=True)
    (half / "rest").touch()
    assert fetched("shop", "1") is None
    here(tree)
    assert not (half / "rest").exists()
    assert (half / "app.py").exists()


def test_a_note_without_its_checkout_says_nothing(tree: Path) -> None:
    here(tree)
    checkout_path("shop", "1").rename(tree.with_name("elsewhere"))
    assert fetched("shop", "1") is None
    assert here(tree).files == 3


def test_a_fetch_that_is_killed_leaves_no_checkout(tree: Path, folder: Path) -> None:
    with (tree / "big").open("wb") as big:
        big.truncate(20 * 10**9)  # sparse: it takes long to read and no space
    spec = fetch_spec("shop", "1", source_kind="directory", source=str(tree))
    assert spec is not None
    handle = runner.begin(spec, folder)
    until(lambda: any(releases_folder("shop").glob(".incoming-*/app.py")), "it did not begin to copy")
    os.kill(handle["pid"], 9)
    assert ended(folder).gone
    assert fetched("shop", "1") is None
    assert not checkout_path("shop", "1").exists()
    (tree / "big").unlink()
    assert here(tree).files == 3


def test_an_image_is_not_fetched() -> None:
    assert fetch_spec("shop", "1", source_kind="image", source="shop:1") is None


def test_a_request_survives_the_way_to_the_program(tree: Path) -> None:
    asked = request(tree, kind="git", ref="ü", submodules=True)
    assert FetchRequest(**json.loads(json.dumps(asdict(asked)))) == asked
