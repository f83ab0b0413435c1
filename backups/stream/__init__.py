"""The way of the bytes: producer -> SHA-256 -> zstd -> age -> parts in a store, and back. One pass, constant memory."""

from .base import EXPECTATIONS, Part, Stored, canonical, part_name
from .expectations import get_expectations, put_expectations
from .reading import StoredArtifact, open_stream
from .writing import store_stream

__all__ = [
    "EXPECTATIONS",
    "Part",
    "Stored",
    "StoredArtifact",
    "canonical",
    "get_expectations",
    "open_stream",
    "part_name",
    "put_expectations",
    "store_stream",
]
