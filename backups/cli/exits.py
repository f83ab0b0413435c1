"""Exit codes, the same for every word of both commands. 2 is what argparse and Django give for wrong use."""

from __future__ import annotations

DONE = 0
FAILED = 1
MISUSED = 2
WARNINGS = 3
NOT_POSSIBLE = 4
UNKNOWN = 5
INTERRUPTED = 130

IN_WORDS = """\
exit codes: 0 done; 1 failed or damaged; 2 used wrongly; 3 done with warnings; 4 not possible here (no identity);
5 unknown (a store did not answer); 130 interrupted (what was begun goes on in its worker)"""
