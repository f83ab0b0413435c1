"""One commit of a git repository as a release: fetched without history, without hooks, without questions."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from controlplane.kernel.redaction import redact_text
from deployments.errors import FetchFailed

from .fetch import user_and_password, without_password

PROTOCOLS = "http:https:ssh:git:file"
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_COMPLAINTS = (
    (
        r"Authentication failed|could not read (?:Username|Password)|Permission denied|terminal prompts disabled"
        r"|HTTP 40[13]|error: 40[13]",
        "wants credentials, or does not accept those given",
        "Give the worker's user a key or a credential helper, or put a token into the address.",
    ),
    (
        r"Could not resolve host|Name or service not known",
        "is on a host whose name is not known",
        "Correct the address.",
    ),
    (
        r"Failed to connect|Connection refused|timed out|unreachable|Couldn't connect",
        "does not answer",
        "See that this machine reaches it, then retry.",
    ),
    (
        r"not found|does not appear to be a git repository|does not exist|No such file",
        "is no git repository",
        "Correct the release's source.",
    ),
    (r"dubious ownership", "belongs to another user", "Let the worker's user own it, or use another way to reach it."),
)


def fetch_commit(source: str, ref: str, target: Path, *, submodules: bool = False, say: Callable[[str], None]) -> str:
    """Check the commit that ``ref`` names (the repository's HEAD without one) out into ``target``; its full hash."""
    git = _Git(source, target, say)
    target.mkdir(mode=0o755, parents=True)
    git.run("init", "--quiet", "--template=")
    commit = git.resolve(ref or "HEAD")
    git.run("checkout", "--quiet", "--detach", "--force", commit)
    if submodules:
        git.run("submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1")
    return commit


class _Git:
    """git in one directory. Credentials of the address go through its environment, never its command line."""

    def __init__(self, source: str, target: Path, say: Callable[[str], None]) -> None:
        self.address, self.target, self.say = without_password(source), target, say
        self.environ = {
            **os.environ,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "SSH_ASKPASS": "true",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=20"),
            "GIT_ALLOW_PROTOCOL": PROTOCOLS,
            "GIT_CONFIG_COUNT": "0",
        }
        given = user_and_password(source)
        if given is not None:
            parts = urlsplit(self.address)
            token = base64.b64encode(":".join(given).encode()).decode()
            self.environ |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{parts.netloc}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {token}",
            }

    def resolve(self, ref: str) -> str:
        """The commit that a branch, a tag or a (short) hash names, fetched."""
        answer = self.attempt("fetch", "--quiet", "--no-tags", "--depth", "1", "--end-of-options", self.address, ref)
        if answer.returncode == 0:
            return self.run("rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}")
        if not _COMMIT.fullmatch(ref):
            self.fail(answer.stderr, ref)
        # Few servers hand a commit out by its hash alone, none by a part of it: all branches and tags are needed.
        self.say(f"looking for the commit {ref} in all branches and tags")
        answer = self.attempt(
            "fetch", "--quiet", "--end-of-options", self.address, "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
        )  # fmt: skip
        if answer.returncode != 0:
            self.fail(answer.stderr, ref)
        found = self.attempt("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        if found.returncode != 0:
            self.no_ref(ref)
        return found.stdout.strip().splitlines()[-1]

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run git; whatever comes of it. FetchFailed where there is no git."""
        self.say(f"git {' '.join(arguments)}")
        argv = [
            "git", "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-c", "gc.auto=0",
            "-c", "advice.detachedHead=false", "-c", "submodule.recurse=false", *arguments,
        ]  # fmt: skip
        try:
            return subprocess.run(
                argv, cwd=self.target, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True,
                encoding="utf-8", errors="replace", check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise FetchFailed("git is not on this machine.", remedy="Install the package git.") from None

    def run(self, *arguments: str) -> str:
        """What git said; FetchFailed where it failed."""
        answer = self.attempt(*arguments)
        if answer.returncode != 0:
            self.fail(answer.stderr, "")
        return answer.stdout.strip()

    def no_ref(self, ref: str) -> None:
        raise FetchFailed(
            f"There is no branch, tag or commit {ref} in {redact_text(self.address)}.",
            remedy="Push it, or make a release of one that is there.",
        )

    def fail(self, complaint: str, ref: str) -> None:
        """Raise FetchFailed for what git complained of."""
        for line in complaint.splitlines():
            self.say(line)
        if re.search(r"couldn't find remote ref|not our ref|invalid refspec", complaint):
            self.no_ref(ref)
        for pattern, what, remedy in _COMPLAINTS:
            if re.search(pattern, complaint, re.IGNORECASE):
                raise FetchFailed(f"The repository {redact_text(self.address)} {what}.", remedy=remedy)
        last = next((line for line in reversed(complaint.splitlines()) if line.strip()), "it said nothing")
        raise FetchFailed(f"git failed: {redact_text(last.strip())}", remedy="The step's log says more.")
