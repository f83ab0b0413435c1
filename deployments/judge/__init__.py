"""Whether a new release is worse than the old one: pure functions of counts, with stated error rates."""

from __future__ import annotations
