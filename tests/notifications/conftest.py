from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from controlplane.notifications import api
from controlplane.notifications.models import Channel

from .receiver import Receiver, receiver


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as there:
        yield there


@pytest.fixture(autouse=True)
def toy_kind() -> Iterator[str]:
    api.kinds.add("toy", api.Kind("toy", "Toy happened"))
    yield "toy"
    api.kinds._entries.pop("toy")


@pytest.fixture
def channel(db: None, hook: Receiver) -> Callable[..., Channel]:
    def make(**fields: object) -> Channel:
        values = {"name": "ops", "kind": "webhook", "address": hook.url, "secret": "s3cret-of-the-hook", **fields}
        row = Channel(**values)
        row.save()
        return row

    return make
