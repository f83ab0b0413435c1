from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from controlplane.kernel.errors import ZantaraError
from deployments.edge import current_edge
from deployments.edge.envoy import BOOTSTRAP


class Command(BaseCommand):
    help = "Write the files that an Envoy of your own needs to start, and say how to start it."
    requires_system_checks = ()  # they may ask for an edge that is only about to be

    def handle(self, *args: Any, **options: Any) -> None:
        edge = current_edge()
        try:
            edge.prepare()
        except ZantaraError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"envoy --config-path {edge.settings.folder / BOOTSTRAP} --disable-hot-restart")
