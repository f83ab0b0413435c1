"""The kinds of steps: what each runs by itself, and how it reads what came of it. All reading is pure."""

from __future__ import annotations
