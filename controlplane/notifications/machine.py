"""The states of a delivery. Pure."""

from __future__ import annotations

from controlplane.kernel.transitions import Machine

DELIVERY = Machine(
    name="delivery",
    initial="pending",
    moves={"pending": ("sent", "given_up"), "sent": (), "given_up": ("pending",)},
)
