from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from controlplane.setup.bootstrap import bootstrap

MARKS = {"changed": "+", "unchanged": "=", "warning": "!"}


class Command(BaseCommand):
    help = "Migrate, and create what is missing: profiles, groups, schedules, keys, the first superuser. Idempotent."
    requires_system_checks = ()  # `manage.py doctor` shows them; a finding must not keep the database from migrating

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument(
            "--first-backup", action="store_true", help="ask for the first backup too; for when workers start next"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        result = bootstrap(first_backup=options["first_backup"])
        if options["json"]:
            self.stdout.write(json.dumps(result.as_json(), indent=2))
            return
        for step in result.steps:
            self.stdout.write(f"{MARKS[step.status]} {step.name}: {step.summary}")
        if result.admin_password is not None:
            self.stdout.write(f"admin password: {result.admin_password}")
