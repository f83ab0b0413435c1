"""How much room the samples take: rows are counted by their times of keeping, and a full row is weighed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

from django.db import connection

from controlplane.monitoring.parsing import parse
from controlplane.samples.figures import figures_of
from controlplane.samples.models import Sample
from controlplane.samples.taking import COARSE, FINE, KEEP_COARSE, KEEP_FINE

ROWS_PER_SERVICE = int(KEEP_FINE.total_seconds() / FINE + KEEP_COARSE.total_seconds() / COARSE)
ROWS = 2000
#: A row that names ten routes, handlers and roles; with 37 440 rows that is 89 MiB a service.
MOST_BYTES_PER_ROW = 2500


def busy_row() -> dict[str, object]:
    """A row as full as it gets: ten routes and handlers of usual length, ten roles, ten buckets."""
    lines = ["# TYPE zantara_requests_total counter"]
    histogram = ["# TYPE zantara_request_duration_seconds histogram"]
    for number in range(15):
        where = f'method="POST",route="/zantara.endpoint-{number:02}",handler="system.handler.{number:02}"'
        lines.append(
            f'zantara_requests_total{{{where},user_role="Setup Team {number:02}",status="200"}} {1234 + number}'
        )
        bounds = ("0.1", "0.3", "0.5", "0.7", "1.0", "3.0", "5.0", "7.0", "10.0", "+Inf")
        histogram += [
            f'zantara_request_duration_seconds_bucket{{{where},le="{bound}"}} {100 * (index + 1)}'
            for index, bound in enumerate(bounds)
        ]
    return figures_of(parse(""), parse("\n".join([*lines, *histogram]) + "\n"), 15.003)


def stored_bytes() -> int:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
        else:
            cursor.execute("SELECT pg_total_relation_size('samples_sample')")
        return int(cursor.fetchone()[0])


def weigh(fields: dict[str, object], service: str) -> float:
    """Bytes per row, indexes included."""
    begin, before = datetime(2026, 1, 1, tzinfo=UTC), stored_bytes()
    Sample.objects.bulk_create(
        Sample(service=service, resolution=FINE, at=begin + timedelta(seconds=FINE * number), up=True, **fields)
        for number in range(ROWS)
    )
    return (stored_bytes() - before) / ROWS


def test_ninety_days_stay_small(db: None) -> None:
    assert ROWS_PER_SERVICE == 11_520 + 25_920
    quiet = weigh(figures_of(parse(""), parse(""), 15.0), "quiet")
    busy = weigh(busy_row(), "busy")
    sys.stdout.write(
        f"\n{connection.vendor}: {ROWS_PER_SERVICE} rows a service; "
        f"quiet {quiet:.0f} bytes a row, {quiet * ROWS_PER_SERVICE / 2**20:.0f} MiB; "
        f"as busy as can be {busy:.0f} bytes a row, {busy * ROWS_PER_SERVICE / 2**20:.0f} MiB\n"
    )
    assert 100 < quiet < 450
    assert quiet < busy < MOST_BYTES_PER_ROW
