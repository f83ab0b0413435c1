"""Where a fault test may kill this process: every step that may be the last of a worker calls ``step_reached``.

Outside the test suite (``ZANTARA_TEST_ROOT`` unset) it does nothing, whatever else the environment holds.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_KILL_AT, _HARNESS, _PROOF = "ZANTARA_TEST_KILL_AT", "ZANTARA_TEST_ROOT", "ZANTARA_TEST_KILLED"
_times: dict[str, int] = {}


def step_reached(name: str) -> None:
    """Between two steps nothing lies half done that a crash could not leave; a fault test dies here to prove it.

    ``ZANTARA_TEST_KILL_AT`` is ``name``, ``name@2`` (the second time that this process gets there) or ``name:STOP``
    (SIGSTOP instead of SIGKILL; woken, it goes on). The file that ``ZANTARA_TEST_KILLED`` names shows that it fired.
    """
    wanted = os.environ.get(_KILL_AT)
    if wanted is None or _HARNESS not in os.environ:
        return
    place, how = (wanted[: -len(":STOP")], "STOP") if wanted.endswith(":STOP") else (wanted, "")
    step, _, which = place.partition("@")
    if step != name:
        return
    _times[name] = _times.get(name, 0) + 1
    if _times[name] != int(which or 1):
        return
    if proof := os.environ.get(_PROOF):
        Path(proof).write_text(name, encoding="ascii")
    os.kill(os.getpid(), signal.SIGSTOP if how == "STOP" else signal.SIGKILL)
