"""The ladder of proof: that a restore point is there (L0), unchanged (L1), readable (L2), and that it restores (L3)."""

from .requests import request_due_proofs, request_proof
from .run import run_proof
from .tending import tend_proofs

__all__ = ["request_due_proofs", "request_proof", "run_proof", "tend_proofs"]
