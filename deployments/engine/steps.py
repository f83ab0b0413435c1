"""The points at which a ticking process may die, by name: the fault suite kills one at each.

Between two of them nothing lies half done that the next tick, of whichever process, does not put right.
"""

from __future__ import annotations

from controlplane.kernel.killpoints import step_reached
from deployments.machines import DEPLOYMENT

#: Of every tick, in this order.
TICK_STEPS = ("leased", "observed", "judged", "decided", "carried_out", "released")
#: Before and after what an effect does outside the database.
EFFECT_STEPS = (
    "row_written", "instance_started", "drain_written", "stop_asked", "instance_forgotten", "split_written",
    "edge_told", "step_written", "step_begun", "step_killed", "backup_asked", "proof_asked",
)  # fmt: skip
#: ``moving:a:b`` within the transaction of a move, ``moved:a:b`` after its commit.
MOVE_STEPS = tuple(f"{when}:{a}:{b}" for a, b in DEPLOYMENT.edges() for when in ("moving", "moved"))

STEPS = (*TICK_STEPS, *EFFECT_STEPS, *MOVE_STEPS)

__all__ = ["EFFECT_STEPS", "MOVE_STEPS", "STEPS", "TICK_STEPS", "step_reached"]
