"""The child ``edge``: Envoy, ready when its admin socket says so, gone when it is told to."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from controlplane.embedded import children, preflight


def test_envoy_is_started_ready_and_stopped() -> None:
    with tempfile.TemporaryDirectory(prefix="zt-edge-") as folder:
        plan = preflight.make_plan({"ZANTARA_DATA_DIR": folder})
        preflight.prepare_directories(plan)
        child = children.edge_child(plan)
        assert child is not None
        assert child.ready is not None
        assert not child.ready()
        process = subprocess.Popen(child.argv, env=dict(child.environ), cwd=child.cwd, stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 30
            while not child.ready():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert (Path(folder) / "run" / "edge.sock").is_socket()
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=20)[1].count(b"\n") == 1  # a warning: it was told to end
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()


def test_without_an_envoy_there_is_no_such_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "envoy_program", lambda: None)

    assert children.edge_child(preflight.make_plan({"ZANTARA_DATA_DIR": str(tmp_path)})) is None
    assert not (tmp_path / "edge").exists()
