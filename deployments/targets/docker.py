"""Instances that are containers of a Docker engine, spoken to through its API.

Nothing is kept here: labels say which containers are ours, so a restart of everything finds them again. The engine
never restarts one by itself (policy "no"), and nothing is pulled: a step of the pipeline does that, or ``docker load``.
Whoever may use the engine can read a container's environment (``docker inspect``), secrets with it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import requests
from django.conf import settings as django_settings
from docker.errors import APIError, DockerException, NotFound

from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from deployments.errors import CannotStart, TargetUnavailable

from . import containers, masking
from .base import InstanceSpec, Seen
from .places import KEPT_LOG_BYTES, Places, check_name, unavailable

SETTINGS = containers.SETTINGS
#: An engine that does not answer a question within this is away.
TIMEOUT_SECONDS = 10
#: The engine reserves a name before it shows the container: so long one that another worker creates may be on its way.
CREATED_WITHIN_SECONDS = 2.0
#: Answers that say nothing of the container. A plain 500 does: so the engine says that a port is taken.
_ENGINE_AWAY = (502, 503, 504)


class DockerTarget:
    """Asks the engine anew each time; the connection is closed with each call."""

    kind = "docker"
    label = "Docker containers"

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    def _places(self, service: str) -> Places:
        return Places(self._root or Path(django_settings.ZANTARA_DATA_DIR) / "deployments", service)

    def check_settings(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return containers.read_settings(settings, forbidden=Path(django_settings.ZANTARA_DATA_DIR))

    def check(self, spec: InstanceSpec) -> None:
        read = self.check_settings(spec.settings)
        check_name(spec.name)
        with engine(read) as client:
            _image(client, spec, self._places(spec.service))

    def ensure(self, spec: InstanceSpec) -> Seen:
        read, places = self.check_settings(spec.settings), self._places(spec.service)
        places.make()
        places.raise_fence(spec.name, spec.generation)
        with engine(read) as client:
            found = self._present(client, spec)
            if found is None:
                found = _create(client, spec, places.pin(spec.release, _image(client, spec, places)), read)
            if found["State"]["Status"] in ("created", "exited"):
                found = _start(client, spec, found)
            return containers.seen_of(found, read, memory_bytes=None)

    def _present(self, client: docker.APIClient, spec: InstanceSpec) -> Mapping[str, Any] | None:
        """The instance's container in whatever state; what is only half there is removed first."""
        try:
            found = client.inspect_container(containers.container_name(spec.name))
        except NotFound:
            return None
        labels = found["Config"].get("Labels") or {}
        if (labels.get(containers.SERVICE), labels.get(containers.NAME)) != (spec.service, spec.name):
            raise CannotStart(
                f"The name {containers.container_name(spec.name)} belongs to a container that is not ours.",
                remedy="Rename or remove that container.",
            )
        if found["State"]["Status"] in ("dead", "removing"):
            client.remove_container(found["Id"], force=True, v=True)
            return None
        return dict(found)

    def find(self, service: str, settings: Mapping[str, Any]) -> Sequence[Seen]:
        read, found = self.check_settings(settings), []
        with engine(read) as client:
            listed = client.containers(all=True, filters={"label": [f"{containers.SERVICE}={service}"]})
            for one in listed:
                try:
                    details = client.inspect_container(one["Id"])
                except NotFound:
                    continue  # removed since the list was made
                if containers.is_ours(details):
                    found.append(containers.seen_of(details, read, memory_bytes=_memory(client, details)))
        return sorted(found, key=lambda seen: seen.name)

    def stop(self, seen: Seen, settings: Mapping[str, Any], *, grace_seconds: float, asked_at: datetime | None) -> None:
        places = self._places(seen.service)
        read = self.check_settings(settings)
        with engine(read) as client:
            found = self._ours(client, seen)
            if found is None or not found["State"]["Running"]:
                return
            key = re.sub(r"[^\w.-]", "", f"{found['Id'][:12]}-{found['State']['StartedAt']}")
            if asked_at is not None and clock.now() - asked_at >= timedelta(seconds=grace_seconds):
                _signal(client, found["Id"], "SIGKILL")
            elif not places.was_asked_to_stop(key):
                _signal(client, found["Id"], containers.stop_signal(found, read))
                places.make()
                places.note_asked_to_stop(key)

    def forget(self, seen: Seen, settings: Mapping[str, Any]) -> None:
        places = self._places(seen.service)
        with engine(self.check_settings(settings)) as client:
            found = self._ours(client, seen)
            if found is not None:
                if found["State"]["Running"]:
                    raise Refused(f"{seen.name} still runs.", remedy="Stop it first.")
                places.make()
                with unavailable(places.root):
                    places.keep_log(seen.name, _log(client, found, KEPT_LOG_BYTES))
                with contextlib.suppress(NotFound):
                    client.remove_container(found["Id"], v=True)
        places.sweep()

    def log_tail(self, seen: Seen, settings: Mapping[str, Any], *, most_bytes: int = 16384) -> str:
        with engine(self.check_settings(settings)) as client:
            found = self._ours(client, seen)
            if found is not None:
                return _log(client, found, most_bytes)
        return masking.tail(self._places(seen.service).log(seen.name), most_bytes, [])

    @staticmethod
    def _ours(client: docker.APIClient, seen: Seen) -> Mapping[str, Any] | None:
        """The container of this instance; None if it is gone or somebody else's."""
        try:
            found = client.inspect_container(containers.container_name(seen.name))
        except NotFound:
            return None
        labels = found["Config"].get("Labels") or {}
        return dict(found) if labels.get(containers.SERVICE) == seen.service else None


class _Client(docker.APIClient):
    """Closes what it has opened if the engine does not even tell its version; the SDK would leave that open."""

    def version(self, api_version: bool = True) -> Any:
        try:
            return super().version(api_version)
        except Exception:
            self.close()
            raise


def _reach(base_url: str) -> None:
    """OSError where nobody listens on the socket; asked here, because the SDK would leave its end open."""
    if base_url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(TIMEOUT_SECONDS)
            probe.connect(base_url.removeprefix("unix://"))


@contextlib.contextmanager
def engine(read: Mapping[str, Any]) -> Iterator[docker.APIClient]:
    """The engine for a few questions. TargetUnavailable where it is away or fails."""
    client: docker.APIClient | None = None
    try:
        _reach(read["base_url"])
        client = _Client(base_url=read["base_url"], version="auto", timeout=TIMEOUT_SECONDS)
        yield client
    except APIError as error:
        raise TargetUnavailable(f"The Docker engine refused: {containers.explanation(error)}.") from None
    except (DockerException, requests.RequestException, OSError) as error:
        raise TargetUnavailable(
            f"The Docker engine at {read['base_url']} does not answer ({type(error).__name__}).",
            remedy="Start it, let this user use it, or correct the service's base_url.",
        ) from None
    finally:
        if client is not None:
            client.close()


def _image(client: docker.APIClient, spec: InstanceSpec, places: Places) -> str:
    """The image's id: that of the release's first start, else what its name means now. CannotStart if it is not there.

    A release is never changed, so a tag that moves later changes nothing.
    """
    if not spec.image:
        raise CannotStart(
            f"{spec.service} {spec.release} has no image.", remedy="Deploy a release whose source is a container image."
        )
    before = places.pinned(spec.release)
    for reference in [before] if before else containers.references(spec.image):
        try:
            identity = str(client.inspect_image(reference)["Id"])
        except NotFound:
            continue
        except APIError as error:
            if error.is_client_error():
                raise CannotStart(f"{spec.image} is no image: {containers.explanation(error)}.") from None
            raise
        return identity
    raise CannotStart(
        f"The Docker engine has no image {spec.image}{f' ({before[:19]}, as it first was)' if before else ''}.",
        remedy="Load it (docker load), or let a step of the pipeline build or pull it; nothing is pulled here.",
    )


def _create(client: docker.APIClient, spec: InstanceSpec, image: str, read: Mapping[str, Any]) -> Mapping[str, Any]:
    """Create it, or take the one that another worker created at this moment."""
    name = containers.container_name(spec.name)
    try:
        client.create_container_from_config(containers.config(client, spec, image, read), name=name)
    except APIError as error:
        if error.status_code != 409:
            if error.is_client_error():
                raise CannotStart(f"{spec.name} cannot be created: {containers.explanation(error)}.") from None
            raise
    return _appearing(client, name)


def _appearing(client: docker.APIClient, name: str) -> Mapping[str, Any]:
    """The container of that name, which the engine may not show yet. TargetUnavailable: the next tick asks again."""
    deadline = time.monotonic() + CREATED_WITHIN_SECONDS
    while True:
        try:
            return dict(client.inspect_container(name))
        except NotFound:
            if time.monotonic() >= deadline:
                raise TargetUnavailable(f"Somebody else creates {name}, and it is not there yet.") from None
        time.sleep(0.02)


def _start(client: docker.APIClient, spec: InstanceSpec, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Start it; one that cannot be started is removed, so that it is made anew from corrected settings."""
    try:
        client.start(found["Id"])
    except NotFound as error:
        if "No such container" in containers.explanation(error):
            raise TargetUnavailable(f"{spec.name} was removed while it was being started.") from None
        _remove_and_refuse(client, spec, found, error)
    except APIError as error:
        if error.status_code in _ENGINE_AWAY:
            raise
        _remove_and_refuse(client, spec, found, error)
    return dict(client.inspect_container(found["Id"]))


def _remove_and_refuse(client: docker.APIClient, spec: InstanceSpec, found: Mapping[str, Any], error: APIError) -> None:
    with contextlib.suppress(APIError):
        client.remove_container(found["Id"], v=True)
    raise CannotStart(
        f"{spec.name} cannot be started: {containers.explanation(error)}.",
        remedy="Correct the service's settings, or deploy an image that has what they name.",
    ) from None


def _signal(client: docker.APIClient, container: str, name: str) -> None:
    try:
        client.kill(container, signal=name)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:  # it has ended by itself meanwhile
            raise


def _memory(client: docker.APIClient, found: Mapping[str, Any]) -> int | None:
    """What it holds without the page cache that can be given back; None where the engine does not say."""
    if not found["State"]["Running"]:
        return None
    try:
        stats = client.stats(found["Id"], stream=False, one_shot=True).get("memory_stats") or {}
    except APIError:
        return None
    details = stats.get("stats") or {}
    cache = details.get("inactive_file", details.get("total_inactive_file", 0))
    return max(0, int(stats["usage"]) - int(cache)) if "usage" in stats else None


def _log(client: docker.APIClient, found: Mapping[str, Any], most_bytes: int) -> str:
    """The end of its log, masked. Lines are asked for, and more of them than fit are cut after masking."""
    try:
        data: bytes = client.logs(found["Id"], tail=max(200, most_bytes // 40), timestamps=False)
    except APIError:
        return ""
    text = data.decode("utf-8", "replace")
    return masking.last_lines(masking.masked(text, containers.secrets_of(found)), most_bytes)
