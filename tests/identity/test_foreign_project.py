"""Identity in somebody else's Django project: no app of ours, no database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x", ROOT_URLCONF="__main__", ALLOWED_HOSTS=["testserver"], DATABASES={}, INSTALLED_APPS=[],
    MIDDLEWARE=["controlplane.identity.middleware.IdentityMiddleware"],
    ZANTARA_JWT_SECRET="a secret of this test, longer than 32 bytes",
)
django.setup()
from django.http import HttpResponse
from django.urls import path
from controlplane.identity.caller import caller_of, client_of
from controlplane.identity.tokens import issue
urlpatterns = [path("", lambda r: HttpResponse(f"{caller_of(r).subject}|{caller_of(r).role}|{client_of(r).address}"))]
from django.test import Client
print(Client().get("/").content.decode())
print(Client().get("/", headers={"authorization": "Bearer " + issue("alice", "CEO", 60)}).content.decode())
print(Client().get("/", headers={"authorization": "Bearer junk"}).status_code)
import sys
print(sorted(m for m in sys.modules if m.startswith(("ratelimits", "controlplane.settings", "django.contrib"))))
"""


def test_the_middleware_protects_a_project_that_has_none_of_our_apps() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if "token_refused" not in line]
    assert answers == ["|default|127.0.0.1", "alice|CEO|127.0.0.1", "401", "[]"]
