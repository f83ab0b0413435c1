"""The API itself: its operations, its errors, and the page that shows both."""

from __future__ import annotations

from typing import Any

from ninja import NinjaAPI, Swagger
from ninja.openapi.schema import OpenAPISchema

from controlplane import __version__
from controlplane.kernel.problems import CONTENT_TYPE

from .problems import add_handlers
from .routes import backups, deployments, health, history, limits


class Api(NinjaAPI):
    """Says in its description that problems have a content type of their own, and where `Location` comes with."""

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """Made once: it is always the same, takes a tenth of a second, and anybody may ask for it."""
        if any(options.values()):
            return self._describe(**options)
        if self._described is None:
            self._described = self._describe(**options)
        return self._described

    _described: OpenAPISchema | None = None

    def _describe(self, **options: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**options)
        for methods in schema["paths"].values():
            for operation in methods.values():
                for status, answer in operation["responses"].items():
                    _correct(int(status), answer)
        return schema


def _correct(status: int, answer: dict[str, Any]) -> None:
    if status >= 400:
        answer["content"] = {CONTENT_TYPE: next(iter(answer["content"].values()))}
    elif status in (201, 202):
        answer["headers"] = {"Location": {"schema": {"type": "string"}, "description": "Where it can be looked at."}}


api = Api(
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
