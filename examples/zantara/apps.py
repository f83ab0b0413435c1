from __future__ import annotations

from django.apps import AppConfig


class SampleConfig(AppConfig):
    """The sample service: what it tells of its own health."""

    name = "examples.zantara"
    label = "zantara_sample"
    verbose_name = "Sample service"

    def ready(self) -> None:
        from controlplane.kernel.registry import probes

        from .chroma import PROBE
        from .config import chroma_url

        if chroma_url():
            probes.add(PROBE.name, PROBE)
