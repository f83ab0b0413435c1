"""What a deployment does next: pure functions of what is there, what was asked, and the time."""

from __future__ import annotations
