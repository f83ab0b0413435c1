"""``manage.py token``: a bearer token for a caller, on the installation that holds the secret."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.identity.roles import SEED_PRIORITIES, priorities
from controlplane.identity.tokens import issue
from controlplane.kernel.env import parse_duration
from controlplane.kernel.errors import ZantaraError


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


class Command(BaseCommand):
    help = "Print a bearer token (JWT) for a role and a subject, and nothing else."
    # It signs with a secret: it needs neither a database nor Redis, nor the checks that ask for them.
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--role", required=True, help='the role that limits speak of, for example "CEO"')
        parser.add_argument("--subject", required=True, help="who the token is for (the claim sub)")
        parser.add_argument(
            "--ttl",
            type=_duration,
            default=3600.0,
            metavar="1h",
            help="how long it holds: 90s, 15m, 1h, 30d (default 1h)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        role = options["role"].strip()
        try:
            if not role:
                raise CommandError("The role is empty. Name one, for example --role External.")
            token = issue(options["subject"].strip(), role, options["ttl"])
        except ZantaraError as error:
            raise CommandError(str(error)) from None
        # The seed's roles are known without asking whoever manages roles, who may need a database.
        if role not in SEED_PRIORITIES and role not in (known := priorities()):
            names = ", ".join(sorted(known, key=lambda name: -known[name]))
            self.stderr.write(f"The role {role!r} is not known here and counts as “default”. Known: {names}.")
        self.stdout.write(token)
