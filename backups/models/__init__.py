"""The rows of backups: what an operator tunes (with history), and what runs (with events)."""

from .plans import BackupPlan, BackupSource, ControlledService, PlanState, StorageTarget, TargetState
from .proofs import ProofEvent, ProofRun
from .records import Artifact, BackupEvent, BackupRecord
from .restores import RestoreEvent, RestoreRecord

__all__ = [
    "Artifact",
    "BackupEvent",
    "BackupPlan",
    "BackupRecord",
    "BackupSource",
    "ControlledService",
    "PlanState",
    "ProofEvent",
    "ProofRun",
    "RestoreEvent",
    "RestoreRecord",
    "StorageTarget",
    "TargetState",
]
