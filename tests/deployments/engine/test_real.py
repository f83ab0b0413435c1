"""Real processes behind a real Envoy: a good release reaches everybody, a bad one is taken back."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.models import ServiceState
from tests.deployments.edge.kit import World
from tests.deployments.engine.real import Real

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def real(tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Real]:
    with tempfile.TemporaryDirectory(prefix="zt-edge-") as folder:
        envoy = World(Path(folder), free_port)
        try:
            envoy.start()
            real = Real(tmp_path, envoy, f"shop-{uuid.uuid4().hex[:8]}")
            for name, value in real.environ.items():
                monkeypatch.setenv(name, value)
            yield real
            real.close()
        finally:
            envoy.close()


def test_releases_are_deployed_replaced_and_taken_back_under_load(real: Real) -> None:
    first, good, bad = real.release("1.0"), real.release("2.0"), real.release("3.0", errors="0.9")
    real.until(real.ask(first, at_once=True), "succeeded")
    assert real.get() == (200, "1.0")

    with real.load() as seen:
        real.until(real.ask(good), "succeeded")
    assert set(seen) == {200}
    assert (real.get(), real.running(first), real.running(good)) == ((200, "2.0"), 0, 2)

    with real.load():
        deployment = real.until(real.ask(bad), "rolled_back")
    assert deployment.verdict["blame"] == "errors"
    assert "3.0" in deployment.error
    assert (real.running(bad), real.running(good)) == (0, 2)
    state = ServiceState.objects.get(service=real.service)
    assert (state.current, state.split) == (good, {"2.0": 1000})
    assert [real.get() for _ in range(20)] == [(200, "2.0")] * 20
