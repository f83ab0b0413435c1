"""Exit codes, the same for every word of both commands."""

from __future__ import annotations

from backups.errors import NoIdentity
from controlplane.kernel.errors import Refused, Unavailable, ZantaraError

DONE = 0
FAILED = 1
REFUSED = 2
WARNINGS = 3
NOT_POSSIBLE = 4
UNKNOWN = 5
INTERRUPTED = 130

IN_WORDS = """\
exit codes: 0 done, and proven as asked; 1 failed or damaged; 2 used wrongly or refused, nothing was done;
3 done with warnings; 4 not possible here (no identity); 5 unknown (a store or server did not answer);
130 interrupted (what was begun goes on in its worker)"""


def code_of(error: ZantaraError) -> int:
    """What an error means for whoever called; 2 is also what argparse gives for wrong use."""
    if isinstance(error, NoIdentity):
        return NOT_POSSIBLE
    if isinstance(error, Unavailable):
        return UNKNOWN
    return REFUSED if isinstance(error, Refused) else FAILED
