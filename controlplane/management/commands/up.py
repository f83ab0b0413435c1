"""``manage.py up``: the whole stack on this machine, in the foreground."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand

from controlplane.embedded.output import Terminal
from controlplane.embedded.stack import run_stack


class Command(BaseCommand):
    help = "Run Redis, web, workers, beat, the vector store and the sample service until Ctrl-C or SIGTERM."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        sys.stdout.flush()
        colour = sys.stdout.isatty() and not options["no_color"] and not os.environ.get("NO_COLOR")
        run_stack(os.environ, Terminal(sys.stdout.fileno(), colour=colour))
