"""What can go wrong with a backup, in words that say whose fault it is.

ZantaraError
├── Refused ── CannotRestore         preflight found a reason not to begin
├── Unavailable ── StorageUnavailable   a store did not answer: nothing is known, least of all damage
├── CaptureFailed                    a source could not be captured consistently; nothing was stored
├── Damaged                          stored bytes are not what the signed manifest says
├── NoIdentity                       nothing here can decrypt: not a fault, not a proof
├── Cancelled                        somebody asked this run to stop
└── Stalled                          no byte moved for the stall timeout
"""

from __future__ import annotations

from controlplane.kernel.errors import Refused, Unavailable, ZantaraError


class StorageUnavailable(Unavailable):
    """The store did not answer, or answered with a server error. Says nothing about what is stored."""


class StorageRefused(ZantaraError):
    """The store answered and said no: credentials, a missing bucket or directory, no space, read-only."""


class ObjectMissing(ZantaraError):
    """The store answered, and the object is not there."""


class CaptureFailed(ZantaraError):
    """A source could not be captured: its producer failed, said nothing, or was inconsistent."""


class Damaged(ZantaraError):
    """Stored bytes differ from the manifest, or the manifest from its signature."""


class NoIdentity(ZantaraError):
    """This process has no age identity: what needs one is not possible here."""


class CannotRestore(Refused):
    """Preflight found a reason not to begin; nothing was touched."""


class RestoreFailed(ZantaraError):
    """A restore could not be completed; what it changed is put back."""


class Cancelled(ZantaraError):
    """Somebody asked this run to stop."""


class Stalled(CaptureFailed):
    """No byte moved for the stall timeout."""
