"""``manage.py backup``: run, look at, prove, expire, and recover the catalogue of restore points."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import OperationalError, ProgrammingError

from backups.cli import cycle, exits, looking, recovering, running
from backups.cli.output import Output
from controlplane.kernel.errors import Unavailable, ZantaraError

WORDS: Mapping[str, Callable[[Mapping[str, Any], Output], int]] = {
    "run": running.run,
    "list": looking.show,
    "verify": running.verify,
    "drill": running.drill,
    "health": looking.health,
    "prune": looking.prune,
    "rebuild-catalogue": recovering.rebuild,
    "kit": recovering.kit,
    "test": cycle.backup_test,
    "recovery-test": cycle.recovery_test,
}


class Command(BaseCommand):
    help = (
        "Restore points: run | list | verify | drill | health | prune | rebuild-catalogue | kit | test | recovery-test."
    )
    requires_system_checks = ()  # `manage.py doctor` shows them; a finding must not stand between a person and a backup

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = exits.IN_WORDS
        words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
        run = _word(words, "run", "run a plan now and watch it")
        run.add_argument("--plan", help="its name; not needed where there is one plan")
        run.add_argument("--source", action="append", default=[], help="only this source of it (may be repeated)")
        run.add_argument("--reason", default="", help="why, for the record")
        run.add_argument("--here", action="store_true", help="do the work in this process, without a worker")
        shown = _word(words, "list", "restore points, newest first")
        shown.add_argument("--plan")
        shown.add_argument("--limit", type=int, default=30)
        shown.add_argument("--all", action="store_true", help="deleted ones too")
        shown.add_argument("--lines", action="store_true", help="with the line that restores each part by stock tools")
        verify = _word(words, "verify", "check what is stored, up to L2")
        _proof(verify)
        verify.add_argument("--level", type=int, choices=(0, 1, 2), default=2)
        _proof(_word(words, "drill", "restore into scratch and compare exactly (L3)"))
        _word(words, "health", "what is right and wrong with the backups")
        prune = _word(words, "prune", "let retention act now")
        prune.add_argument("--plan")
        prune.add_argument("--dry-run", action="store_true", help="only say what would be kept and deleted, and why")
        rebuild = _word(words, "rebuild-catalogue", "make the records anew from the stores alone")
        rebuild.add_argument("--target", help="only this one")
        rebuild.add_argument("--kit", metavar="FILE", help="install this recovery kit first")
        rebuild.add_argument("--identity", metavar="FILE", help="the recovery key that opens the kit")
        kit = _word(words, "kit", "write the recovery kit, or install one")
        kit.add_argument("--output", metavar="FILE")
        kit.add_argument("--install", metavar="FILE", help="take targets and keys from this kit")
        kit.add_argument("--identity", metavar="FILE", help="the recovery key that opens it")

        test = _word(words, "test", "back up, verify and drill on the running stack, and say what was proven")
        test.add_argument("--plan")
        test = _word(words, "recovery-test", "lose vectors of the running stack, restore them, and compare")
        test.add_argument("--plan")

    def handle(self, *args: Any, **options: Any) -> None:
        run_word(WORDS[options["word"]], options, output_of(self, options))


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """The command says itself what it does: of the log, warnings and worse."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        root.setLevel(before)


def output_of(command: BaseCommand, options: Mapping[str, Any]) -> Output:
    """Where the command writes: Django's wrapper would colour and end lines on its own."""
    return Output(getattr(command.stdout, "_out", sys.stdout), as_json=options["json"])


def run_word(word: Callable[[Mapping[str, Any], Output], int], options: Mapping[str, Any], output: Output) -> None:
    """Do it, and leave with the exit code that says how it went."""
    try:
        with _quiet_logs():
            code = word(options, output)
    except ZantaraError as error:
        output.error(error)
        code = exits.code_of(error)
    except (OperationalError, ProgrammingError) as error:  # away, or not migrated
        away = Unavailable(
            f"The control plane's database cannot be asked ({type(error).__name__}).",
            remedy="Run `manage.py bootstrap` if there is none yet; `manage.py doctor` says what else is wrong.",
        )
        output.error(away)
        code = exits.code_of(away)
    except KeyboardInterrupt:
        output.warn("Interrupted. What a worker has begun goes on.")
        code = exits.INTERRUPTED
    if code:
        raise SystemExit(code)


def _word(words: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = words.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    return parser


def _proof(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the restore point, or `latest`")
    parser.add_argument("--part", action="append", default=[], help="only this part of it (may be repeated)")
    parser.add_argument("--here", action="store_true", help="do the work in this process, without the proof worker")
    parser.add_argument("--identity", metavar="FILE", help="with --here: the age identity that opens the set")
