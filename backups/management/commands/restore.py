"""``manage.py restore``: put a restore point, or parts of it, in the place of the live data."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from backups.cli import exits, restoring

from .backup import output_of, run_word


class Command(BaseCommand):
    help = "Restore a restore point, or parts of it; what goes wrong is put back as it was."
    requires_system_checks = ()  # a finding must not stand between a person and his data

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = exits.IN_WORDS
        parser.add_argument("name", help="of the restore point, or `latest`")
        parser.add_argument("--part", action="append", default=[], help="only this part (may be repeated)")
        for group, default in _GROUPS.items():
            parser.add_argument(f"--{group}", action=argparse.BooleanOptionalAction, default=default)
        parser.add_argument("--stop-services", action="store_true", help="stop services that have commands for it")
        parser.add_argument("--service", action="append", default=[], help="stop this one (may be repeated)")
        parser.add_argument(
            "--minimum-score", type=int, default=80, help="health (0-100) that must be reached after it"
        )
        parser.add_argument("--without-safety-backup", action="store_true", help="where the source is wholly gone")
        parser.add_argument("--preview", action="store_true", help="only say what would happen")
        parser.add_argument("--confirm", default="", metavar="NAME", help="the restore point's name once more")
        parser.add_argument("--reason", default="", help="why, for the record")
        parser.add_argument("--here", action="store_true", help="do the work in this process, without the proof worker")
        parser.add_argument("--identity", metavar="FILE", help="the age identity that opens the set")
        parser.add_argument(
            "--offline", action="store_true", help="the control plane's own database; the stack is down"
        )
        parser.add_argument("--target", help="with --offline: the name of the target, where the catalogue is gone")
        parser.add_argument("--from", dest="directory", metavar="DIR", help="with --offline: a directory with sets")
        parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")

    def handle(self, *args: Any, **options: Any) -> None:
        run_word(restoring.restore, options, output_of(self, options))


#: The defaults of the first Zantara: vectors come back unless switched off, all else only if asked for.
_GROUPS = {"vectors": True, "configuration": False, "userdata": False, "databases": False, "logs": False}
