from __future__ import annotations

from django.apps import AppConfig


class KernelAppConfig(AppConfig):
    """Models that exist for tests of the kernel alone."""

    name = "tests.kernelapp"
    label = "kernelapp"
