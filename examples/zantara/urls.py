"""All addresses of the sample service."""

from __future__ import annotations

from django.urls import path

from controlplane.monitoring.exposition import metrics
from controlplane.monitoring.health.views import health, livez, readyz

from . import chaos_views, vector_views, views, work_views
from .handlers import ENDPOINTS

urlpatterns = [
    *(path(f"zantara.{endpoint}", views.endpoint, {"endpoint": endpoint}, name=endpoint) for endpoint in ENDPOINTS),
    path("vectors/export", vector_views.export, name="vectors-export"),
    path("vectors/import", vector_views.import_, name="vectors-import"),
    path("_chaos", chaos_views.chaos, name="chaos"),
    path("_work", work_views.work, name="work"),
    path("livez", livez, name="livez"),
    path("readyz", readyz, name="readyz"),
    path("health", health, name="health"),
    path("metrics", metrics, name="metrics"),
]

handler400 = views.bad_request
handler404 = views.not_found
handler500 = views.server_error
