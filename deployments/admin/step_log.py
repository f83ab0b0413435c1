"""The log of a step, streamed to the page a piece at a time. Its secrets were masked as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployments.models import StepRun
from deployments.pipeline import runner
from deployments.pipeline.folder import OUTPUT

#: Of a long log the page gets the end; the whole is in the step's folder.
MOST_BYTES = 131072


def step_log(run: StepRun, offset: int) -> dict[str, Any]:
    """What it has said from ``offset`` on, where to go on, and whether more will come."""
    running = run.finished_at is None
    answer: dict[str, Any] = {"text": "", "offset": offset, "running": running, "skipped": False, "note": ""}
    if not run.folder:
        return {**answer, "note": "It has not begun to speak yet." if running else "Its log is gone."}
    folder = Path(run.folder)
    begin = offset if offset else max(0, _size(folder) - MOST_BYTES)
    text, end = runner.output_since(folder, begin, MOST_BYTES)
    answer |= {"text": text, "offset": end, "skipped": begin > offset}
    if begin > offset:
        answer["note"] = f"The first {begin:,} bytes are left out; the whole is in {folder / OUTPUT}.".replace(
            ",", "\u202f"
        )
    elif not text and not offset:
        answer["note"] = "It has said nothing yet." if running else "It said nothing, or its log is gone."
    return answer


def _size(folder: Path) -> int:
    try:
        return (folder / OUTPUT).stat().st_size
    except OSError:
        return 0
