"""Model fields whose values are encrypted at rest, so that a copy of the database holds no credential.

The key is a Fernet key in ``ZANTARA_FIELDS_KEY(_FILE)``; several, separated by commas, rotate: the first
encrypts, all decrypt. A value that no key opens is an error that says so, never an empty value.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models

from .errors import ConfigurationError

_PREFIX = "fernet:"

if TYPE_CHECKING:
    _Text = models.TextField[str, str]
    _Json = models.TextField[Any, Any]
else:
    _Text = _Json = models.TextField


@lru_cache(maxsize=4)
def _cipher(keys: str) -> MultiFernet:
    if not keys:
        raise ConfigurationError(
            "There is no key for encrypted fields.", remedy="Set ZANTARA_FIELDS_KEY_FILE, or run `manage.py bootstrap`."
        )
    try:
        return MultiFernet([Fernet(key.strip()) for key in keys.split(",") if key.strip()])
    except ValueError:
        raise ConfigurationError(
            "ZANTARA_FIELDS_KEY is no Fernet key.", remedy="It is 32 bytes in URL-safe base64."
        ) from None


def cipher() -> MultiFernet:
    """The installation's cipher; ConfigurationError without a key."""
    return _cipher(getattr(settings, "ZANTARA_FIELDS_KEY", None) or "")


def encrypt(text: str) -> str:
    """What is stored for ``text``; the empty text stays empty."""
    return _PREFIX + cipher().encrypt(text.encode()).decode() if text else ""


def decrypt(stored: str) -> str:
    """The text again; ConfigurationError where no key opens it."""
    if not stored:
        return ""
    try:
        return cipher().decrypt(stored.removeprefix(_PREFIX).encode()).decode()
    except InvalidToken:
        raise ConfigurationError(
            "An encrypted field cannot be opened with this installation's key.",
            remedy="Put back the key it was written with (the recovery kit has it), or enter the secret again.",
        ) from None


class EncryptedTextField(_Text):
    """A text that the database holds encrypted. It cannot be searched or ordered by."""

    def get_prep_value(self, value: Any) -> Any:
        return encrypt(str(value)) if value else ""

    def from_db_value(self, value: str | None, *_: Any) -> str:
        return decrypt(value or "")


class EncryptedJSONField(_Json):
    """A JSON value that the database holds encrypted."""

    def get_prep_value(self, value: Any) -> Any:
        return encrypt(json.dumps(value, sort_keys=True)) if value else ""

    def from_db_value(self, value: str | None, *_: Any) -> Any:
        return json.loads(decrypt(value)) if value else {}

    def to_python(self, value: Any) -> Any:
        return value if not isinstance(value, str) else (json.loads(value) if value else {})
