"""The API itself: its operations, its errors, and the page that shows both."""

from __future__ import annotations

from ninja import NinjaAPI, Swagger

from controlplane import __version__

from .problems import add_handlers
from .routes import backups, deployments, health, history, limits

api = NinjaAPI(
    title="Zantara control plane",
    version=__version__,
    description=(
        "Deploy, steer, back up, limit, and look. Every call needs an API token of the admin "
        "(`Authorization: Bearer zt_…`) with the scope that its `x-scope` names. Errors are RFC 9457 documents."
    ),
    urls_namespace="api-v1",
    docs=Swagger(settings={"persistAuthorization": False, "tryItOutEnabled": True, "validatorUrl": None}),
)
for part in (deployments, backups, limits, history, health):
    api.add_router("", part.router)
add_handlers(api)
