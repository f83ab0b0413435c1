from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_limiters_settings_reach_the_sample_service_too() -> None:
    """The documented variables hold for every service of ours, not for the control plane alone."""
    code = (
        "from examples.zantara import settings as s\n"
        "print(s.ZANTARA_RATELIMIT_HEADERS, s.ZANTARA_LIMITS_PROCESSES, s.ZANTARA_LIMITS_TIMEOUT_SECONDS)"
    )
    given = {"ZANTARA_RATELIMIT_HEADERS": "legacy,draft-10", "ZANTARA_LIMITS_PROCESSES": "3"}
    environ = os.environ | given | {"ZANTARA_LIMITS_TIMEOUT": "20ms"}
    command = [sys.executable, "-c", code]
    seen = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert seen.stdout == "['legacy', 'draft-10'] 3 0.02\n"
