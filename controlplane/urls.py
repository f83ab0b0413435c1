"""All addresses of the control plane."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from controlplane.api.api import api
from controlplane.console.assets import favicon_redirect
from controlplane.identity.views import token_view
from controlplane.monitoring.exposition import metrics
from controlplane.monitoring.health.views import health, livez, readyz
from ratelimits.decorators import guard_login, guard_token

urlpatterns = [
    path("livez", livez),
    path("readyz", readyz),
    path("health", health),
    path("metrics", metrics),
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("favicon.ico", favicon_redirect),
    path("admin/login/", guard_login(admin.site.login)),  # before the admin's own, which stays its name
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
    path("auth/token", guard_token(token_view), name="token"),
]
