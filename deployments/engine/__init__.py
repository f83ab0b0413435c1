"""What carries deployments out: the tick, and what people ask for."""

from __future__ import annotations
