"""The secrets of a one-machine installation: made once, kept in the data directory, mode 0600.

They are made only where nobody gave a secret explicitly (``ZANTARA_SECRET_KEY`` or its ``_FILE``):
an installation that brings its own secrets must bring all of them.
"""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from .env import Env
from .errors import ConfigurationError

#: File name in ``<data>/secrets`` -> what it signs or hashes. 64 URL-safe characters = 384 bits each:
#: Django's deployment check wants a key of at least 50.
NAMES = {
    "secret_key": "Django's signatures and sessions",
    "jwt_secret": "the JWT bearer tokens (HS256)",
    "limits_secret": "the hashed limiter keys and the decision ids",
    "fields_key": "the credentials that the database holds encrypted",
}


def data_dir(env: Env | None = None) -> Path:
    """``ZANTARA_DATA_DIR``, by default ``var`` beside ``manage.py``."""
    return (env or Env()).path("ZANTARA_DATA_DIR", Path(__file__).parents[2] / "var")


def secret_file(name: str, env: Env | None = None) -> Path:
    """Where the secret ``name`` of a one-machine installation is kept, whether or not it is there yet."""
    return data_dir(env) / "secrets" / name


def ensure_local_secrets(env: Env | None = None) -> None:
    """Make each missing secret file; leave everything alone where secrets are given explicitly."""
    env = env or Env()
    if env.text("ZANTARA_SECRET_KEY") or env.text("ZANTARA_SECRET_KEY_FILE"):
        return
    folder = data_dir(env) / "secrets"
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the mode is for the last part alone
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in NAMES:
            _write_once(folder / name)
    except OSError as error:
        raise ConfigurationError(
            f"The data directory {folder.parent} cannot be written ({error.strerror}).",
            remedy="Make it writable for this user, or set ZANTARA_DATA_DIR to a directory that is.",
        ) from None


def _new_value(name: str) -> str:
    """64 URL-safe characters, or what a Fernet key must be: 32 bytes in padded URL-safe base64."""
    if name == "fields_key":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(48)


def _write_once(path: Path) -> None:
    """Write a new secret under a temporary name and link it in place: two processes at once agree on one."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # pids repeat in containers
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, _new_value(path.name).encode())
        os.fsync(descriptor)  # never an empty secret after a power cut
    finally:
        os.close(descriptor)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
