"""``manage.py deploy``: deploy a release, watch it, steer it, look back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import OperationalError, ProgrammingError

from controlplane.kernel.errors import Unavailable, ZantaraError
from deployments.cli import acting, exits, looking, words
from deployments.cli.output import DeployOutput
from deployments.cli.quiet import quiet_logs

Word = Callable[[Mapping[str, Any], DeployOutput], int]
HANDLERS: Mapping[str, Word] = {
    **dict.fromkeys(words.WORDS, acting.steer),
    words.START: acting.start,
    "rollback": acting.rollback,
    "stop-line": acting.line,
    "release-line": acting.line,
    "status": looking.status,
    "history": looking.history,
    "plan": looking.plan,
    "replay": looking.replay,
}


class Command(BaseCommand):
    help = "Deploy a release of a service, watch it, steer it: deploy SERVICE --version V [--wait], or a word below."
    requires_system_checks = ()  # `manage.py doctor` shows them; a finding must not stand between a person and an abort

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parse = parser.parse_args

        def with_word(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
            return parse(words.understood(sys.argv[2:] if args is None else args), namespace)

        parser.parse_args = with_word  # type: ignore[method-assign, assignment]
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = exits.IN_WORDS
        words.add_words(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        stream = getattr(self.stdout, "_out", sys.stdout)
        output = DeployOutput(stream, as_json=options["json"], as_lines=bool(options.get("wait")))
        code = run(HANDLERS[options["word"]], options, output)
        if code:
            raise SystemExit(code)


def run(word: Word, options: Mapping[str, Any], output: DeployOutput) -> int:
    """Do it; the exit code that says how it went."""
    try:
        words.check(options)
        with quiet_logs():
            return word(options, output)
    except ZantaraError as error:
        output.error(error)
        return exits.code_of_error(error)
    except (OperationalError, ProgrammingError) as error:  # away, or not migrated
        away = Unavailable(
            f"The control plane's database cannot be asked ({type(error).__name__}).",
            remedy="Run `manage.py bootstrap` if there is none yet; `manage.py doctor` says what else is wrong.",
        )
        output.error(away)
        return exits.code_of_error(away)
    except KeyboardInterrupt:
        output.warn("Interrupted. What was asked for goes on.")
        return exits.INTERRUPTED
