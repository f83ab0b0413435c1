"""The start page's card of Celery: how long each queue is, how old its oldest task, and beat's heartbeat."""

from __future__ import annotations

from typing import Any

from controlplane.console.base import badge, human_seconds, since
from controlplane.kernel.registry import Card
from controlplane.schedules.heartbeat import last_heartbeat
from controlplane.work_metrics import queue_states

from .docs import docs_url

#: A task that has waited longer than this waits for a worker that is not there, or is busy with a long one.
OLD_SECONDS = 60


def work_now() -> dict[str, Any]:
    """Two round trips to Redis; one if it does not answer."""
    states = queue_states()
    return {
        "queues": [
            {
                "name": state.name,
                "length": state.length,
                "oldest": "–" if state.oldest_seconds is None else human_seconds(state.oldest_seconds),
                "badge": badge("Waits long", "warn") if (state.oldest_seconds or 0) > OLD_SECONDS else "",
            }
            for state in states
        ],
        "heartbeat": since(last_heartbeat()) if states else None,
        "docs": docs_url("docs/dashboard.md#work"),
    }


CARD = Card(name="work", title="Work in the queues", template="console/work_card.html", context=work_now)
