"""What only this service's settings hold, read where they are needed."""

from __future__ import annotations

from django.conf import settings


def release() -> str:
    """The name of the release that this process runs."""
    return str(getattr(settings, "ZANTARA_RELEASE", "1"))


def chroma_url() -> str | None:
    """Chroma's address; None where there is no Chroma."""
    return getattr(settings, "ZANTARA_CHROMA_URL", None)
