"""``manage.py prepare_edge``: what an Envoy of one's own is started with."""

from __future__ import annotations

import subprocess
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from deployments.edge import envoy_program
from tests import needs


def test_an_envoy_can_be_started_with_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZANTARA_EDGE_DIR", str(tmp_path / "edge"))
    out = StringIO()

    call_command("prepare_edge", stdout=out)

    bootstrap = tmp_path / "edge" / "bootstrap.json"
    assert out.getvalue() == f"envoy --config-path {bootstrap} --disable-hot-restart\n"
    program = envoy_program() or needs.command("envoy", package="envoy")
    checked = subprocess.run(
        [str(program), "--mode", "validate", "--config-path", str(bootstrap)], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZANTARA_EDGE_DIR", str(tmp_path / "file" / "edge"))

    with pytest.raises(CommandError, match="set ZANTARA_EDGE_DIR"):
        call_command("prepare_edge")
