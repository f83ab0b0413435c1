"""The steps at which the worker of a proof may die, by name: the fault suite kills one at each."""

from __future__ import annotations

from backups.killpoints import step_reached

#: In the order in which they are reached; the middle ones once per artifact (``reading`` with its first bytes).
PROOF_STEPS = (
    "proof_leased",
    "proof_running",
    "proof_set_opened",
    "proof_scratch_made",
    "proof_reading",
    "proof_artifact_climbed",
    "proof_artifact_noted",
    "proof_ended",
)

__all__ = ["PROOF_STEPS", "step_reached"]
