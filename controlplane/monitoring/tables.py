"""The list of metrics as a Markdown table, made from their declarations."""

from __future__ import annotations

from .catalogue import METRICS, Spec


def metrics_table() -> str:
    """The table of docs/metrics.md, with a newline at its end."""
    lines = ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    return "\n".join([*lines, *(_row(spec) for spec in METRICS)]) + "\n"


def _row(spec: Spec) -> str:
    labels = ", ".join(f"`{label}`" for label in spec.labels)
    text = spec.help.replace("|", "\\|").replace("<", "&lt;")
    if spec.buckets:
        text += f" Buckets: {' '.join(f'{bound:g}' for bound in spec.buckets)} s."
    return f"| `{spec.name}` | {spec.kind} | {labels} | {text} |"
