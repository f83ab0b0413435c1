"""The keys of backups: who can open a set, and whose signature a manifest must bear.

Sets are encrypted to age public keys alone, so the worker that writes them cannot read them:

recovery key     made at bootstrap; its private half belongs away from this machine (a missing one is normal)
drill identity   its private half is named by ZANTARA_DRILL_IDENTITY_FILE, in the environment of the proof worker only
signing key      Ed25519; whoever verifies needs only its public half
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from backups.errors import NoIdentity
from controlplane.kernel import clock
from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.local_secrets import data_dir

RECOVERY, DRILL, SIGNING = "recovery_key", "drill_identity", "manifest_signing_key"

_PUBLIC = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_SECRET = re.compile(r"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}")


class Identity:
    """What opens a set: one or more age identities. Its text form never shows them."""

    __slots__ = ("_keys",)

    def __init__(self, *keys: pyrage.x25519.Identity) -> None:
        self._keys = keys

    @property
    def keys(self) -> list[pyrage.x25519.Identity]:
        """For pyrage's functions, which want a list."""
        return list(self._keys)

    @property
    def public(self) -> tuple[str, ...]:
        return tuple(str(key.to_public()) for key in self._keys)

    def __repr__(self) -> str:
        return f"<Identity of {', '.join(self.public)}>"

    def __reduce__(self) -> str:
        raise TypeError("An identity is never pickled.")


def folder(env: Env | None = None) -> Path:
    """``<data>/secrets``, where a one-machine installation keeps its keys."""
    return data_dir(env) / "secrets"


def recovery_key_file(env: Env | None = None) -> Path:
    """Where bootstrap puts the private recovery key, for the operator to move away."""
    return folder(env) / f"{RECOVERY}.txt"


def recovery_key_is_here(env: Env | None = None) -> bool:
    """Whether the private recovery key still lies on the machine whose loss it is for."""
    return recovery_key_file(env).exists()


def ensure_keys(env: Env | None = None) -> list[str]:
    """Make the keys that are missing and that the environment does not bring; the names of those made now.

    The private half is written before the public one, so nothing is ever encrypted to a key that was lost in a
    crash. A public half without its private half is left alone: the latter was moved away. Idempotent, also of two
    processes at once. ConfigurationError where the directory cannot be written.
    """
    env = env or Env()
    made = []
    try:
        folder(env).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder(env).mkdir(mode=0o700, exist_ok=True)
        if env.text("ZANTARA_RECOVERY_RECIPIENT") is None and _ensure_age_key(RECOVERY, env):
            made.append(RECOVERY)
        if env.text("ZANTARA_DRILL_RECIPIENT") is None and _ensure_age_key(DRILL, env):
            made.append(DRILL)
        if env.text("ZANTARA_MANIFEST_SIGNING_KEY_FILE") is None and _ensure_signing_key(env):
            made.append(SIGNING)
    except OSError as error:
        raise ConfigurationError(
            f"The keys of backups cannot be written to {folder(env)} ({error.strerror}).",
            remedy="Make it writable for this user, or bring the keys by ZANTARA_RECOVERY_RECIPIENT, "
            "ZANTARA_DRILL_RECIPIENT and ZANTARA_MANIFEST_SIGNING_KEY_FILE.",
        ) from None
    return made


def _ensure_age_key(name: str, env: Env) -> bool:
    private, public = folder(env) / f"{name}.txt", folder(env) / f"{name}.pub"
    if public.exists():
        return False
    key = pyrage.x25519.Identity.generate()
    text = f"# created: {clock.now().isoformat(timespec='seconds')}\n# public key: {key.to_public()}\n{key}\n"
    made = write_once(private, text.encode())
    write_once(public, f"{identity_from_file(private).public[0]}\n".encode(), mode=0o644)
    return made


def _ensure_signing_key(env: Env) -> bool:
    private, public = folder(env) / f"{SIGNING}.pem", folder(env) / f"{SIGNING}.pub"
    if public.exists():
        return False
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made = write_once(private, pem)
    write_once(public, public_pem(_load_signing_key(private).public_key()), mode=0o644)
    return made


def write_once(path: Path, content: bytes, *, mode: int = 0o600) -> bool:
    """Write a whole, durable file unless there is one; True if this call made it."""
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    entry = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
    return True


# --- who can open a set ---------------------------------------------------------------------------


def recovery_recipient(env: Env | None = None) -> str:
    """The public recovery key; ConfigurationError without one, since such a set could not be opened again."""
    found = _recipient(RECOVERY, "ZANTARA_RECOVERY_RECIPIENT", env or Env())
    if found is None:
        raise ConfigurationError(
            "There is no recovery key, so nothing is backed up.",
            remedy="Run `manage.py bootstrap`, or set ZANTARA_RECOVERY_RECIPIENT to an age public key of yours.",
        )
    return found


def drill_recipient(env: Env | None = None) -> str | None:
    """The drill identity's public key, if there is one."""
    return _recipient(DRILL, "ZANTARA_DRILL_RECIPIENT", env or Env())


def recipients(extra: str = "", env: Env | None = None) -> tuple[str, ...]:
    """Every public key that a set is encrypted to: recovery, drill, and a plan's own (one per line), each once.

    ConfigurationError where there is no recovery key or a key is no age public key.
    """
    found = [recovery_recipient(env)]
    drill = drill_recipient(env)
    found += [drill] if drill else []
    found += [check_recipient(line, "The plan's recipients") for line in extra.splitlines() if line.strip()]
    return tuple(dict.fromkeys(found))


def _recipient(name: str, variable: str, env: Env) -> str | None:
    given = env.text(variable)
    if given is not None:
        return check_recipient(given, variable)
    file = folder(env) / f"{name}.pub"
    try:
        return check_recipient(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be read ({error.strerror}).", remedy="Make it readable for the user that runs this process."
        ) from None


def check_recipient(text: str, where: str = "This") -> str:
    """The age public key in ``text``; ConfigurationError otherwise, which shows no part of a private key."""
    key = text.strip()
    try:
        if _PUBLIC.fullmatch(key):
            pyrage.x25519.Recipient.from_str(key)
            return key
    except pyrage.RecipientError:
        pass
    raise ConfigurationError(
        f"{where}: not an age public key.",
        remedy="It begins with age1 and has 62 characters; `age-keygen -y` shows it.",
    )


def as_age(public_keys: tuple[str, ...]) -> list[pyrage.x25519.Recipient]:
    """The keys as pyrage wants them; ConfigurationError for none at all."""
    if not public_keys:
        raise ConfigurationError("Nothing is encrypted to nobody.", remedy="Give at least the recovery key.")
    return [pyrage.x25519.Recipient.from_str(check_recipient(key)) for key in public_keys]


# --- what opens a set -------------------------------------------------------------------------------


def drill_identity(env: Env | None = None) -> Identity:
    """What ZANTARA_DRILL_IDENTITY_FILE names, and nothing else: only the proof worker's environment has it.

    NoIdentity where it is not set or not there.
    """
    name = (env or Env()).text("ZANTARA_DRILL_IDENTITY_FILE")
    if name is None:
        raise NoIdentity(
            "This process has no drill identity.",
            remedy="Set ZANTARA_DRILL_IDENTITY_FILE in the environment of the proof worker.",
        )
    return identity_from_file(Path(name).expanduser())


def identity_from_file(path: Path) -> Identity:
    """The identities in a file as `age-keygen` writes it; NoIdentity where there are none. Shows none of its text."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NoIdentity(
            f"The identity file {path} cannot be read ({error.strerror}).",
            remedy="Name a file that this user can read; the recovery key may be on another machine.",
        ) from None
    except UnicodeDecodeError:
        raise NoIdentity(
            f"{path} is no age identity file.", remedy="If it is encrypted, open it first with `age -d`."
        ) from None
    return Identity(*_identities(text, path))


def _identities(text: str, path: Path) -> Iterator[pyrage.x25519.Identity]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        if lines and all(_SECRET.fullmatch(line) for line in lines):
            return iter([pyrage.x25519.Identity.from_str(line) for line in lines])
    except pyrage.IdentityError:
        pass
    raise NoIdentity(
        f"{path} is no age identity file.",
        remedy="It holds lines that begin with AGE-SECRET-KEY-1; if it is encrypted, open it first with `age -d`.",
    )


# --- whose signature holds ----------------------------------------------------------------------------


def key_id(key: Ed25519PublicKey) -> str:
    """16 hexadecimal digits that name a signing key."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return sha256(raw).hexdigest()[:16]


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def signing_key(env: Env | None = None) -> Ed25519PrivateKey:
    """The key that signs manifests; ConfigurationError without one."""
    env = env or Env()
    return _load_signing_key(env.path("ZANTARA_MANIFEST_SIGNING_KEY_FILE", folder(env) / f"{SIGNING}.pem"))


def trusted_keys(env: Env | None = None) -> Mapping[str, Ed25519PublicKey]:
    """Key id -> public key: our own, those in ``<data>/secrets/trusted/*.pub`` (put there from a recovery kit), and
    the files that ZANTARA_MANIFEST_TRUSTED_KEY_FILES names.
    """
    env = env or Env()
    found: list[Ed25519PublicKey] = []
    private = env.text("ZANTARA_MANIFEST_SIGNING_KEY_FILE")
    if private is not None:
        found.append(_load_signing_key(Path(private)).public_key())
    own = folder(env) / f"{SIGNING}.pub"
    files = [own] if own.exists() else []
    files += sorted((folder(env) / "trusted").glob("*.pub"))
    files += [Path(name).expanduser() for name in env.items("ZANTARA_MANIFEST_TRUSTED_KEY_FILES")]
    found += [_load_public_key(file) for file in files]
    return {key_id(key): key for key in found}


def load_public_key(pem: bytes, where: str) -> Ed25519PublicKey:
    """The Ed25519 public key in a PEM text; ConfigurationError otherwise."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{where} is no Ed25519 public key in PEM.", remedy="Take it from the recovery kit.")
    return key


def _load_public_key(path: Path) -> Ed25519PublicKey:
    try:
        return load_public_key(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigurationError(
            f"The public key {path} cannot be read ({error.strerror}).",
            remedy="Make it readable, or take it out of ZANTARA_MANIFEST_TRUSTED_KEY_FILES.",
        ) from None


def _load_signing_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigurationError(
            f"The manifest signing key {path} cannot be read ({error.strerror}).",
            remedy="Run `manage.py bootstrap`, or set ZANTARA_MANIFEST_SIGNING_KEY_FILE.",
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"{path} is no Ed25519 private key in PEM without a password.",
            remedy="`openssl genpkey -algorithm ed25519` makes one.",
        )
    return key
