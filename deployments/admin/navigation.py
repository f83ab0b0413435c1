"""The start page's card and the step of the setup. The sidebar's lines are with the console's own, for their order."""

from __future__ import annotations

from controlplane.kernel.registry import cards, setup_steps

from .card import CARD, STEP


def register() -> None:
    """Add them; adding the same again is fine."""
    cards.add(CARD.name, CARD)
    setup_steps.add(STEP.name, STEP)
