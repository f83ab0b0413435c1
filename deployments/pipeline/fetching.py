"""The program that fetches a release: ``python -m deployments.pipeline.fetching``, run as a step, without Django.

What is fetched comes whole or not at all: it is made beside its place and moved there in one act. The last line that
it prints is the result as JSON, or one sentence that says what to do.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from deployments.errors import FetchFailed

from . import folder as files
from .copying import copy_tree, hash_tree
from .fetch import VARIABLE, Fetched, FetchRequest, check_source
from .gitting import fetch_commit

PARTIAL = ".incoming-"


def fetch(request: FetchRequest, *, say: Callable[[str], None]) -> Fetched:
    """Make the checkout, or find that it is there. FetchFailed with a sentence that says what to do."""
    destination, note = Path(request.destination), Path(request.result)
    present = _present(destination, note)
    if present is not None:
        if request.digest and present.digest != request.digest:
            raise FetchFailed(
                f"{destination} is {present.digest[:19]}, and the release is {request.digest[:19]}.",
                remedy="Somebody has changed it: remove the directory, then retry.",
            )
        say(f"{destination} is there already")
        return present
    check_source(request.kind, request.source, request.ref)
    try:
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = destination.with_name(f"{PARTIAL}{secrets.token_hex(6)}")
        try:
            result = _bring(request, partial, say)
            _check_digest(request, result)
            # The note first: a checkout with a note is complete, a note without a checkout says nothing.
            files.write_json(note, {"digest": result.digest, "files": result.files, "bytes": result.bytes})
            if destination.is_dir():  # without a note: half of one that an earlier program left
                destination.rename(partial.with_name(f"{partial.name}-old"))
                shutil.rmtree(partial.with_name(f"{partial.name}-old"), ignore_errors=True)
            partial.rename(destination)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        where = error.filename or destination
        raise FetchFailed(
            f"{where}: {error.strerror or error}.", remedy="See that it can be read, and that the disk has room."
        ) from None
    return result


def _bring(request: FetchRequest, partial: Path, say: Callable[[str], None]) -> Fetched:
    if request.kind == "directory":
        digest, count, size = copy_tree(Path(request.source), partial, Path(request.destination), say)
        return Fetched(digest, count, size)
    digest = fetch_commit(
        request.source, request.digest or request.ref, partial, submodules=request.submodules, say=say
    )
    _, count, size = hash_tree(partial)
    return Fetched(digest, count, size)


def _present(destination: Path, note: Path) -> Fetched | None:
    noted = files.read_json(note)
    if noted is None or not destination.is_dir():
        return None
    return Fetched(str(noted["digest"]), int(noted["files"]), int(noted["bytes"]))


def _check_digest(request: FetchRequest, result: Fetched) -> None:
    if request.digest and result.digest != request.digest:
        raise FetchFailed(
            f"The source is not what it was when the release was made ({result.digest[:19]} instead of "
            f"{request.digest[:19]}).",
            remedy="Make another release of what it is now.",
        )


def main() -> int:
    """Fetch what the variable says. 0: it is there; 1: it cannot be had."""

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    request = FetchRequest(**json.loads(os.environ.pop(VARIABLE)))
    try:
        result = fetch(request, say=say)
    except FetchFailed as error:
        say(str(error))
        return 1
    say(json.dumps({"digest": result.digest, "files": result.files, "bytes": result.bytes}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
