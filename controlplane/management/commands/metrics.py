"""``manage.py metrics``: what this project measures, and what it measured."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.kernel.errors import ZantaraError
from controlplane.monitoring.exposition import exposition
from controlplane.monitoring.tables import metrics_table


class Command(BaseCommand):
    help = (
        "Print what the processes of the service counted whose PROMETHEUS_MULTIPROC_DIR is set, as /metrics would; "
        "with --table the list of all metrics as docs/metrics.md shows it."
    )
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--table", action="store_true", help="the list of metrics, as a Markdown table")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.stdout.write(metrics_table() if options["table"] else exposition()[0].decode(), ending="")
        except ZantaraError as error:
            raise CommandError(str(error)) from None
