from __future__ import annotations

from typing import Any


def logging_config(form: str, level: str) -> dict[str, Any]:
    return {"version": 1, "disable_existing_loggers": False, "root": {"level": level}}
