"""The words of the command and their options. ``deploy SERVICE …`` is short for ``deploy start SERVICE …``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.kernel.errors import Refused
from deployments.models import Release

START = "start"
#: Word -> what its help says. A service of such a name is deployed with ``deploy start NAME``.
WORDS: dict[str, str] = {
    START: "deploy a release (the word may be left out)",
    "status": "how a deployment stands, or all services",
    "promote": "go on to the next stage now",
    "promote-fully": "give it all traffic now",
    "pause": "hold it where it is",
    "resume": "let a held one go on",
    "abort": "stop it, and go back to the old release",
    "rollback": "go back to the release before, or to another one",
    "retry": "ask for it once more",
    "history": "deployments, the newest first",
    "plan": "what a deployment would do; nothing is asked for",
    "replay": "judge a deployment again, with another policy",
    "stop-line": "let nothing be deployed, of any service",
    "release-line": "let it run again",
}
_STEERING = ("promote", "promote-fully", "pause", "resume", "abort", "retry")
#: The words that take ``--version`` themselves.
_WITH_VERSION = (START, "plan")
#: Options of every command of Django's that take a value, and those that take none.
_WITH_VALUE = frozenset({"--settings", "--pythonpath", "-v", "--verbosity"})
_FLAGS = frozenset({"--traceback", "--no-color", "--force-color", "--skip-checks"})


def understood(arguments: Sequence[str]) -> list[str]:
    """The arguments with the word that may be left out. Pure.

    A word with ``--version`` that has none is a service of that name: ``deploy status --version 2``.
    """
    given = [str(argument) for argument in arguments]
    at = 0
    while at < len(given) and (given[at] in _FLAGS or given[at].partition("=")[0] in _WITH_VALUE):
        at += 2 if given[at] in _WITH_VALUE else 1
    if at >= len(given) or given[at] in ("-h", "--help"):
        return given
    versioned = any(argument.partition("=")[0] == "--version" for argument in given[at + 1 :])
    if given[at] in WORDS and (given[at] in _WITH_VERSION or not versioned):
        return given
    return [*given[:at], START, *given[at:]]


def check(options: Mapping[str, Any]) -> None:
    """Refused for options that say nothing together."""
    if options.get("timeout") is not None and not options["wait"]:
        raise Refused("--timeout says how long --wait may take.", remedy="Add --wait, or leave it out.")


def add_words(parser: argparse.ArgumentParser) -> None:
    """Declare every word on the command's parser."""
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD|SERVICE")
    made = {name: _word(words, name, text) for name, text in WORDS.items()}
    _start(made[START])
    made["status"].add_argument("name", nargs="?", help="of a deployment or a service; none: all services")
    _waiting(made["status"])
    for name in _STEERING:
        made[name].add_argument("name", help="of a deployment, or of the service whose deployment goes on")
        made[name].add_argument("--reason", default="", help="why, for the record")
        _waiting(made[name])
    back = made["rollback"]
    back.add_argument("name", help="of a deployment or a service")
    back.add_argument("--to", metavar="VERSION", default="", help="to this release instead, all at once")
    back.add_argument("--reason", default="", help="why, for the record")
    _waiting(back)
    made["history"].add_argument("name", nargs="?", help="of a service; none: of all")
    made["history"].add_argument("--limit", type=int, default=30)
    made["plan"].add_argument("name", help="of the service")
    made["plan"].add_argument("--version", default="", help="of the release; none: any")
    _replay(made["replay"])
    made["stop-line"].add_argument("--reason", required=True, help="why: others will want to know")
    made["release-line"].add_argument("--reason", default="")


def _word(words: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = words.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="one JSON document; with --wait one JSON object a line")
    return parser


def _waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="watch it until it is over or held; the exit code says how")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="with --wait: watch no longer; it goes on")


def _start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="SERVICE")
    parser.add_argument("--version", required=True, help="of the release")
    parser.add_argument("--source", default="", metavar="PATH|URL|IMAGE", help="of a release that is new")
    parser.add_argument("--source-kind", default="", choices=Release.Source.values, help="guessed if left out")
    parser.add_argument("--ref", default="", help="branch, tag or commit of a repository")
    parser.add_argument("--forward-only", action="store_true", help="there is no way back from it")
    parser.add_argument("--reason", default="", help="why, for the record")
    parser.add_argument("--at-once", action="store_true", help="without stages")
    parser.add_argument("--skip-pipeline", action="store_true", help="without checks, build and backup")
    _waiting(parser)


def _replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of a deployment or a service")
    parser.add_argument("--alpha", type=float, help="chance to abort a good release, over its whole rollout")
    parser.add_argument("--margin", type=float, help="an odds ratio above this is worse")
    parser.add_argument("--error-budget", type=int)
    parser.add_argument("--min-requests", type=int)
    parser.add_argument("--min-score", type=int)
    parser.add_argument("--ticks", action="store_true", help="with every tick, not only the outcome")
