from __future__ import annotations


def publish_on_commit() -> None:
    return None
