from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from controlplane.setup.check_catalogue import table
from controlplane.setup.doctor import Finding, diagnose

MARKS = {"ok": "✓ ok  ", "warn": "! warn", "fail": "✗ FAIL"}


class Command(BaseCommand):
    help = "Look for faults in settings, database, Redis and schedules. Exit code 1 if something fails."
    requires_system_checks = ()  # they are findings here

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")
        parser.add_argument("--list-checks", action="store_true", help="print a table of all check ids, and stop")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["list_checks"]:
            self.stdout.write(table(), ending="")
            return
        diagnosis = diagnose()
        if options["json"]:
            self.stdout.write(json.dumps(diagnosis.as_json(), indent=2, ensure_ascii=False))
        else:
            for finding in diagnosis.findings:
                self.stdout.write(line(finding))
        if diagnosis.status == "fail":
            raise SystemExit(1)


def line(finding: Finding) -> str:
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    docs = f" [{finding.docs}]" if finding.docs and finding.status != "ok" and finding.docs not in remedy else ""
    return f"{MARKS[finding.status]} {finding.name}: {finding.summary}{remedy}{docs}"
