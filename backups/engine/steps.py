"""The steps at which a worker may die, by name: the fault suite kills one at each.

Between two steps nothing lies half done that the step before it does not account for.
"""

from __future__ import annotations

from backups.killpoints import step_reached

#: Of a run, in the order in which they are reached (``capture_opened`` … ``source_stored`` once per source).
RUN_STEPS = (
    "leased",
    "running",
    "capture_opened",
    "streaming",
    "source_stored",
    "manifest_signed",
    "manifest_stored",
    "commit_fenced",
    "commit_stored",
    "row_committed",
)
#: Of a failed run that takes back what it stored, and of the recovery of a lost one.
UNDO_STEPS = ("undo_begun", "objects_undone", "recovery_judged")
#: Of a deletion.
DELETE_STEPS = ("delete_begun", "commit_deleted", "objects_deleted", "row_deleted")

STEPS = (*RUN_STEPS, *UNDO_STEPS, *DELETE_STEPS)

__all__ = ["DELETE_STEPS", "RUN_STEPS", "STEPS", "UNDO_STEPS", "step_reached"]
