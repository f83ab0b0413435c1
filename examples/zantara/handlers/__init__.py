"""The handlers of the sample service: one file per family, one registry for all."""

from __future__ import annotations

from . import echo, knowledge, memory
from .registry import ENDPOINTS, Endpoint, Handler, available, handlers

__all__ = ["ENDPOINTS", "Endpoint", "Handler", "available", "echo", "handlers", "knowledge", "memory"]
