"""All addresses of the sample service."""

from __future__ import annotations

from django.urls import path

from controlplane.monitoring.health.views import livez, readyz

from . import chaos_views, vector_views, views
from .handlers import ENDPOINTS

urlpatterns = [
    *(path(f"zantara.{endpoint}", views.endpoint, {"endpoint": endpoint}, name=endpoint) for endpoint in ENDPOINTS),
    path("vectors/export", vector_views.export, name="vectors-export"),
    path("vectors/import", vector_views.import_, name="vectors-import"),
    path("_chaos", chaos_views.chaos, name="chaos"),
    path("livez", livez, name="livez"),
    path("readyz", readyz, name="readyz"),
]

handler400 = views.bad_request
handler404 = views.not_found
handler500 = views.server_error
