"""The state machine of a deployment. Pure; every move goes through ``controlplane.kernel.transitions``."""

from __future__ import annotations

from controlplane.kernel.transitions import Machine

#: States in which a person or the system may hold a deployment; ``resume_to`` of the row says where it goes on.
PAUSABLE = (
    "queued", "fetching", "checking", "building", "backing_up", "starting", "shifting", "baking", "validating",
)  # fmt: skip
#: Before the first instance of the new release exists there is nothing to roll back.
BEFORE_INSTANCES = frozenset({"waiting", "queued", "fetching", "checking", "building", "backing_up"})

#: A deployment. ``waiting``: another one of its service is active, or the line is stopped.
#: ``starting``: surge instances until they are ready; ``shifting``: the stage's weight is written and read back;
#: ``baking``: the stage is watched; ``validating``: the service's own checks at 100 %; ``finishing``: the old
#: instances drain and stop. ``rollback_blocked``: it is bad, and there is nothing to go back to by itself.
DEPLOYMENT = Machine(
    name="deployment",
    initial="waiting",
    moves={
        "waiting": ("queued", "aborted"),
        "queued": ("fetching", "starting", "failed", "aborted", "paused"),
        "fetching": ("checking", "failed", "aborted", "paused"),
        "checking": ("building", "failed", "aborted", "paused"),
        "building": ("backing_up", "failed", "aborted", "paused"),
        "backing_up": ("starting", "failed", "aborted", "paused"),
        "starting": ("shifting", "rolling_back", "paused"),
        "shifting": ("baking", "rolling_back", "paused"),
        "baking": ("shifting", "validating", "rolling_back", "paused"),
        "validating": ("finishing", "rolling_back", "paused"),
        "finishing": ("succeeded", "rolling_back"),
        "rolling_back": ("rolled_back", "rollback_blocked"),
        "rollback_blocked": ("rolling_back", "shifting"),
        "paused": (*PAUSABLE, "rolling_back", "aborted"),
        "succeeded": (),
        "rolled_back": (),
        "failed": (),
        "aborted": (),
    },
)

#: At most one deployment of a service is in one of these (a constraint of the database).
ACTIVE = tuple(sorted(set(DEPLOYMENT.moves) - DEPLOYMENT.terminal_states - {"waiting"}))
