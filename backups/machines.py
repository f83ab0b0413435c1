"""The three state machines of the app. Pure; every move goes through ``controlplane.kernel.transitions``."""

from __future__ import annotations

from controlplane.kernel.transitions import Machine

#: A restore point. ``running -> queued`` is a worker that was lost: the next attempt begins a new set.
RECORD = Machine(
    name="backup",
    initial="queued",
    moves={
        "queued": ("running", "failed", "cancelled"),
        "running": ("committed", "queued", "failed", "cancelled"),
        "committed": ("expiring", "deleting"),
        "expiring": ("committed", "deleting"),
        "deleting": ("deleted",),
        "failed": ("deleting",),
        "cancelled": ("deleting",),
        "deleted": (),
    },
)

#: One climb of the ladder of proof. ``unknown``: the store could not be reached, nothing was learned.
PROOF = Machine(
    name="proof",
    initial="queued",
    moves={
        "queued": ("running", "not_possible", "cancelled"),
        "running": ("passed", "failed", "unknown", "not_possible", "cancelled", "queued"),
        "passed": (),
        "failed": (),
        "unknown": (),
        "not_possible": (),
        "cancelled": (),
    },
)

#: A restore is a transaction: until ``swapping`` nothing of the running system has changed, and from every state
#: in which services may be stopped or things swapped the way back is ``rolling_back``.
RESTORE = Machine(
    name="restore",
    initial="queued",
    moves={
        "queued": ("preflight", "refused", "cancelled"),
        "preflight": ("safety_backup", "refused", "cancelled"),
        "safety_backup": ("stopping", "rolling_back"),
        "stopping": ("restoring", "rolling_back"),
        "restoring": ("validating", "rolling_back"),
        "validating": ("swapping", "rolling_back"),
        "swapping": ("starting", "rolling_back"),
        "starting": ("checking", "rolling_back"),
        "checking": ("done", "rolling_back"),
        "rolling_back": ("rolled_back", "failed"),
        "done": (),
        "rolled_back": (),
        "failed": (),
        "refused": (),
        "cancelled": (),
    },
)
