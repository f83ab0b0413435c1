"""A process that was warmed up does nothing for the first time while callers wait."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "examples.zantara.settings"
from examples.zantara.wsgi import application
import threading
from controlplane.monitoring import pressure
print("examples.zantara.urls" in sys.modules, pressure._sampler._latest is not None)
print(sorted(thread.name for thread in threading.enumerate() if thread.name in ("pressure", "last-minute")))
"""


def test_the_views_are_imported_and_memory_and_connections_sampled_before_the_first_request(tmp_path: Path) -> None:
    environ = {
        "ZANTARA_DATA_DIR": str(tmp_path),
        "ZANTARA_REDIS_URL": f"unix://{tmp_path}/none.sock",
        "PATH": "/usr/bin",
    }
    environ |= {"ZANTARA_JWT_SECRET": "s" * 40, "ZANTARA_LIMITS_SECRET": "s" * 40, "ZANTARA_LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=Path(__file__).parents[2], env=environ, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["True True", "['last-minute', 'pressure']"]
