"""Where releases lie, and the step that brings one there. The work itself is done by ``fetching``, a program."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from controlplane.kernel.local_secrets import data_dir
from deployments.errors import FetchFailed

from .base import Findings, StepSeen, StepSpec
from .folder import read_json
from .names import named
from .readers.common import ended_otherwise, finding, last_line

KIND = "fetch"
TIMEOUT_SECONDS = 900
#: The variable that tells the program what to fetch; it may hold a password, so no command line shows it.
VARIABLE = "DEPLOY_FETCH"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A checkout that is complete: its digest (commit or tree hash), its files and their bytes."""

    digest: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What is fetched, and to where. ``digest``: what it must be, where that is known already."""

    kind: str
    source: str
    ref: str
    digest: str
    destination: str
    result: str
    submodules: bool = False


def releases_folder(service: str) -> Path:
    """Where the checkouts of a service lie."""
    return data_dir() / "deployments" / named(service) / "releases"


def checkout_path(service: str, version: str) -> Path:
    """Where that release's files are, or will be."""
    return releases_folder(service) / named(version)


def result_path(service: str, version: str) -> Path:
    """Where it is noted what the checkout is; beside it, so that the checkout holds only what the source holds."""
    return releases_folder(service).parent / "fetched" / f"{named(version)}.json"


def fetched(service: str, version: str) -> Fetched | None:
    """The complete checkout of that release; None where there is none (yet, or any more)."""
    note = read_json(result_path(service, version))
    if note is None or not checkout_path(service, version).is_dir():
        return None
    return Fetched(str(note["digest"]), int(note["files"]), int(note["bytes"]))


def fetch_spec(
    service: str,
    version: str,
    *,
    source_kind: str,
    source: str,
    ref: str = "",
    digest: str = "",
    timeout_seconds: int = TIMEOUT_SECONDS,
) -> StepSpec | None:
    """The step that fetches a release; None for an image, of which nothing is checked out.

    A checkout that is there already is not fetched again. With ``digest`` the result must be just that.
    """
    if source_kind == "image":
        return None
    request = FetchRequest(
        kind=source_kind,
        source=source,
        ref=ref,
        digest=digest,
        destination=str(checkout_path(service, version)),
        result=str(result_path(service, version)),
    )
    check_source(request.kind, request.source, request.ref)
    return StepSpec(
        name="fetch",
        kind=KIND,
        argv=(sys.executable, "-m", "deployments.pipeline.fetching"),
        cwd=data_dir(),
        timeout_seconds=timeout_seconds,
        environ={VARIABLE: json.dumps(asdict(request)), "PYTHONPATH": str(ROOT)},
        secrets=_passwords(source),
    )


def read_fetch(output: str, seen: StepSeen) -> Findings:
    """What came of a fetch: its digest, files and bytes as numbers, or the sentence that says what to do. Pure."""
    if (otherwise := ended_otherwise(seen)) is not None:
        return otherwise
    said = last_line(output)
    if seen.exit_code == 0 and said.startswith('{"digest"'):
        numbers = json.loads(said)
        size = numbers["bytes"] / 1e6
        return finding("passed", f"{numbers['files']} files, {size:.1f} MB, {numbers['digest'][:19]}.", numbers)
    return finding("failed", said or f"The fetch ended with exit code {seen.exit_code}.")


def check_source(kind: str, source: str, ref: str) -> None:
    """Raise FetchFailed, with what to do, for a source that can never be fetched. Nothing is looked up."""
    if kind not in ("git", "directory"):
        raise FetchFailed(f"A source of kind {kind!r} cannot be fetched.", remedy="Use git, directory or image.")
    if not source.strip() or any(ord(letter) < 32 for letter in source + ref):
        raise FetchFailed("The release has no readable source.", remedy="Make a release with one.")
    if kind == "directory":
        if not Path(source).is_absolute():
            raise FetchFailed(f"{source} is no absolute path.", remedy="Make a release with the whole path.")
        return
    if source.startswith("-") or ref.startswith("-"):
        wrong = ref if ref.startswith("-") else source
        raise FetchFailed(f"{wrong!r} begins with a dash.", remedy="Name a branch, a tag or a commit.")
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    if (scheme and scheme not in ("http", "https", "ssh", "git", "file")) or "::" in source.partition("/")[0]:
        raise FetchFailed(
            f"Git repositories are not fetched by {scheme or source.partition('::')[0]}.",
            remedy="Use http, https, ssh, git or file.",
        )
    if not scheme and not source.startswith("/") and ":" not in source.partition("/")[0]:
        raise FetchFailed(
            f"{without_password(source)} is neither an address nor an absolute path.",
            remedy="Give https://…, user@host:path or /path/to/repository.",
        )


def without_password(source: str) -> str:
    """The address without user and password, where it is one of HTTP; for sentences and command lines."""
    parts = urlsplit(source) if source.lower().startswith(("http://", "https://")) else None
    if parts is None or "@" not in parts.netloc:
        return source
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def user_and_password(source: str) -> tuple[str, str] | None:
    """The credentials that an HTTP address brings; None where it brings none."""
    if not source.lower().startswith(("http://", "https://")) or "@" not in urlsplit(source).netloc:
        return None
    user, _, password = urlsplit(source).netloc.rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def _passwords(source: str) -> tuple[str, ...]:
    """What must not be read in the fetch's output: the password, or a lone token, also as it is written there."""
    try:
        given = user_and_password(source)
    except ValueError:
        raise FetchFailed("The address of the repository cannot be read.", remedy="Correct it.") from None
    if given is None:
        return ()
    user, _, password = urlsplit(source).netloc.rpartition("@")[0].partition(":")
    return (given[1], password) if password else (given[0], user)
