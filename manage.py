#!/usr/bin/env python
"""The control plane's command line."""

from __future__ import annotations

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    from controlplane.kernel.errors import ZantaraError

    try:
        from controlplane.kernel.local_secrets import ensure_local_secrets

        ensure_local_secrets()
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except ZantaraError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
