"""Exit codes, the same for every word of the command."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.kernel.errors import Refused, Unavailable, ZantaraError
from deployments.models import Deployment

DONE = 0
FAILED = 1
REFUSED = 2
ROLLED_BACK = 3
ABORTED = 4
HELD = 5
BLOCKED = 6
INTERRUPTED = 130

MEANINGS: Mapping[int, str] = {
    DONE: "succeeded; or, without `--wait`, asked for or still going on",
    FAILED: "failed before it had any traffic",
    REFUSED: "used wrongly or refused; nothing was changed",
    ROLLED_BACK: "it was bad and was taken back: the old release serves",
    ABORTED: "somebody aborted it before it had any traffic",
    HELD: "held for a person, or not known: too little data, no end within `--timeout`, a database that is away",
    BLOCKED: "it is bad and cannot be taken back by itself: act now",
    INTERRUPTED: "interrupted; the deployment goes on",
}

IN_WORDS = "exit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())

_BY_STATE = {
    "succeeded": DONE,
    "failed": FAILED,
    "rolled_back": ROLLED_BACK,
    "aborted": ABORTED,
    "paused": HELD,
    "rollback_blocked": BLOCKED,
}


def ends_waiting(deployment: Deployment) -> bool:
    """Whether there is nothing more to wait for: it is over, or only a person can go on with it."""
    return deployment.state in _BY_STATE


def code_of(deployment: Deployment) -> int:
    """What its state means for whoever called; DONE while it goes on."""
    return _BY_STATE.get(deployment.state, DONE)


def code_of_error(error: ZantaraError) -> int:
    """2 is also what argparse gives for wrong use."""
    if isinstance(error, Unavailable):
        return HELD
    return REFUSED if isinstance(error, Refused) else FAILED
