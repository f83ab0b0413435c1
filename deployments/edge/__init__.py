"""The proxy in front of the instances. Each edge is one module and runs the one contract suite."""

from __future__ import annotations
