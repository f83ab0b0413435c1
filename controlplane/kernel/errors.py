"""Every error that the project raises on purpose, in one tree.

    ZantaraError                 something went wrong that has a name; carries a remedy
    ├── ConfigurationError       the installation is set up wrongly; nothing was started
    ├── Refused                  bad input or a forbidden act; nothing was changed
    │   └── ForbiddenMove        a state machine does not allow this move
    ├── NotAuthentic             a credential that does not hold (a bad token is never "anonymous")
    ├── LeaseLost                this worker no longer owns the row; it must stop writing
    └── Unavailable              a server we need did not answer; nothing is known about it

"Somebody else did it first" is no error: compare-and-set functions answer ``None`` or ``False``.
"""

from __future__ import annotations


class ZantaraError(Exception):
    """The root. ``message`` says what happened, ``remedy`` what the reader can do about it.

    Neither may hold a secret: both reach logs, terminals and pages.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConfigurationError(ZantaraError):
    """The installation is set up wrongly."""


class Refused(ZantaraError):
    """The request cannot be carried out as it was put; nothing was changed."""


class ForbiddenMove(Refused):
    """The table of allowed moves does not hold this one."""


class NotAuthentic(ZantaraError):
    """A credential was presented and does not hold."""


class LeaseLost(ZantaraError):
    """Another worker has taken the row over; the caller must stop and write nothing more."""


class Unavailable(ZantaraError):
    """A server that is needed did not answer in time or at all."""
