"""What a container is made of, and what the engine's answer says of it; pure but for the names of folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import docker
from docker.errors import APIError

from controlplane.kernel.errors import Refused

from . import commands, settings
from .base import InstanceSpec, Seen
from .settings import Setting

PREFIX = "zantara."
SERVICE, RELEASE, SLOT, NAME, GENERATION, SECRETS = (
    f"{PREFIX}{part}" for part in ("service", "release", "slot", "name", "generation", "secrets")
)
PLACEHOLDERS = ("port", "release", "slot", "name")
#: Without a limit one container could take every process number of the machine.
PIDS_LIMIT = 4096


def _volumes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("is no list")
    read = []
    for entry in value:
        host, _, rest = settings.text(entry).partition(":")
        inside, _, mode = rest.partition(":")
        mode = mode or "ro"
        if not Path(host).is_absolute() or not PurePosixPath(inside).is_absolute() or mode not in ("ro", "rw"):
            raise ValueError(f"has {entry!r}, which is no mount")
        if ".." in Path(host).parts or inside == "/":
            raise ValueError(f"has {entry!r}, which is not allowed")
        read.append(f"{host}:{inside}:{mode}")
    return tuple(read)


def _network(value: Any) -> str:
    name = settings.text(value)
    if name in ("host", "none") or name.startswith("container:") or not re.fullmatch(r"[\w][\w.-]*", name):
        raise ValueError(f"is {name!r}: instances need a network of their own addresses")
    return name


def _publish_host(value: Any) -> str:
    return "" if value == "none" else settings.address(value)


SETTINGS = (
    Setting(
        "base_url", "unix:///var/run/docker.sock", settings.text, "Where the engine listens: unix:///… or tcp://host:2376."
    ),
    Setting(
        "command", "", commands.command_reader(PLACEHOLDERS),
        "Instead of the image's own command; no shell; {port} {release} {slot} {name}.",
    ),
    Setting("port", 8080, settings.integer(1, 65535), "Where the service listens inside the container."),
    Setting("network", "bridge", _network, "The engine's network that containers join."),
    Setting(
        "publish_host", "127.0.0.1", _publish_host,
        'Address of the engine\'s machine where the port is published; "none": the container\'s own address is used.',
    ),
    Setting("memory_mb", None, settings.integer(6, 1 << 20), "An instance that needs more is killed; none: no limit."),
    Setting("cpus", None, settings.number(0.01, 1024), "Processors that it may use, as 0.5; none: no limit."),
    Setting("volumes", (), _volumes, 'Directories there, as ["/srv/site:/site"]; read-only but with a third part, rw.'),
    Setting("user", "", settings.text, "User inside the container, as 1000:1000; by default the image's."),
    Setting("stop_signal", "", settings.stop_signal, "What asks it to end; by default the image's, else TERM."),
    Setting("log_mb", 10, settings.integer(1, 10_000), "At this size its log begins anew; one older is kept."),
)  # fmt: skip


def read_settings(given: Mapping[str, Any], *, forbidden: Path) -> dict[str, Any]:
    """Refused, too, for a mount that would hand out the machine, its engine, or what is in ``forbidden``."""
    read = settings.read_settings("docker", SETTINGS, given)
    if not re.match(r"(unix:///|tcp://[\w.\[])", read["base_url"]):
        raise Refused("The setting 'base_url' is no address of an engine.", remedy=SETTINGS[0].help)
    for volume in read["volumes"]:
        host = Path(volume.split(":", 1)[0]).resolve()
        sockets = ["/var/run/docker.sock", *re.findall(r"^unix://(.+)", read["base_url"])]
        kept = [forbidden.resolve(), *(Path(name).resolve() for name in sockets)]
        if any(path.is_relative_to(host) for path in kept) or host.is_relative_to(forbidden.resolve()):
            raise Refused(
                f"The volume {volume} holds secrets of the control plane or the engine's socket.",
                remedy="Mount a directory of the service alone.",
            )
    return read


def container_name(name: str) -> str:
    """The engine takes no plus sign, versions may have one."""
    return name.replace("+", "_")


def config(client: docker.APIClient, spec: InstanceSpec, image: str, read: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the engine's “create”."""
    values = {"port": str(read["port"]), "release": spec.release, "slot": str(spec.slot), "name": spec.name}
    secrets = {name: str(value) for name, value in spec.secret_environ.items()}
    environ = {
        **commands.fill_environ(spec.environ, values), **secrets,
        "PORT": values["port"], "ZANTARA_SERVICE_PORT": values["port"], "ZANTARA_RELEASE": spec.release,
        "ZANTARA_INSTANCE": spec.name,
    }  # fmt: skip
    memory = read["memory_mb"] << 20 if read["memory_mb"] else None
    published = {read["port"]: (read["publish_host"], None)} if read["publish_host"] else None
    host_config = client.create_host_config(
        restart_policy={"Name": "no"},
        port_bindings=published,
        network_mode=read["network"],
        mem_limit=memory,
        memswap_limit=memory,  # no swap beyond it: a slow instance that is not killed is worse than a killed one
        nano_cpus=int(read["cpus"] * 1e9) if read["cpus"] else None,
        binds=list(read["volumes"]) or None,
        pids_limit=PIDS_LIMIT,
        security_opt=["no-new-privileges"],
        log_config={"type": "json-file", "config": {"max-size": f"{read['log_mb']}m", "max-file": "2"}},
    )
    made: dict[str, Any] = client.create_container_config(
        image=image,
        command=commands.split(read["command"], values) if read["command"] else None,
        environment=environ,
        user=read["user"] or None,
        ports=[(read["port"], "tcp")],
        host_config=host_config,
        labels={
            SERVICE: spec.service, RELEASE: spec.release, SLOT: str(spec.slot), NAME: spec.name,
            GENERATION: str(spec.generation), SECRETS: ",".join(sorted(secrets)),
        },
    )  # fmt: skip
    return made


def is_ours(found: Mapping[str, Any]) -> bool:
    """Whether its labels are whole; somebody may have written one of them by hand."""
    labels = found["Config"].get("Labels") or {}
    return all(labels.get(name) for name in (SERVICE, RELEASE, NAME)) and str(labels.get(SLOT, "")).isdigit()


def seen_of(found: Mapping[str, Any], read: Mapping[str, Any], *, memory_bytes: int | None) -> Seen:
    """What ``docker inspect`` says, in the words of every target."""
    labels, state = found["Config"]["Labels"], found["State"]
    running = bool(state["Running"])
    host, port = _address(found, read) if running else ("", None)
    began = state["Status"] != "created"
    return Seen(
        service=labels[SERVICE],
        release=labels[RELEASE],
        slot=int(labels[SLOT]),
        name=labels[NAME],
        running=running,
        host=host,
        port=port,
        handle={"container": found["Id"], "started": state["StartedAt"]},
        started_at=_time(state["StartedAt"]),
        exit_code=state["ExitCode"] if began and not running else None,
        oom_killed=bool(state.get("OOMKilled")) and not running,
        memory_bytes=memory_bytes,
    )


def _address(found: Mapping[str, Any], read: Mapping[str, Any]) -> tuple[str, int | None]:
    network = found["NetworkSettings"]
    if read["publish_host"]:
        published = (network.get("Ports") or {}).get(f"{read['port']}/tcp") or []
        return (published[0]["HostIp"], int(published[0]["HostPort"])) if published else ("", None)
    addresses = [one.get("IPAddress") for one in (network.get("Networks") or {}).values()]
    own = next((one for one in addresses if one), network.get("IPAddress") or "")
    return (own, read["port"]) if own else ("", None)


def stop_signal(found: Mapping[str, Any], read: Mapping[str, Any]) -> str:
    own = str(found["Config"].get("StopSignal") or "SIGTERM")
    return f"SIG{read['stop_signal']}" if read["stop_signal"] else own


def secrets_of(found: Mapping[str, Any]) -> list[str]:
    """The values of its secret variables, from its own description."""
    names = set(str((found["Config"].get("Labels") or {}).get(SECRETS, "")).split(","))
    pairs = (entry.partition("=") for entry in found["Config"].get("Env") or ())
    return [value for name, _, value in pairs if name in names]


def explanation(error: APIError) -> str:
    """What the engine said, in one line."""
    return " ".join(str(error.explanation or error.args[0]).split()).rstrip(".")[:300]


def references(image: str) -> list[str]:
    """What the engine may know the image by, the most exact first: as written, and by the id behind an @."""
    return [image, *re.findall(r"@(sha256:[0-9a-f]{64})$", image)]


def _time(written: str) -> datetime | None:
    """The engine's time (nanoseconds, 0001 for never)."""
    if written.startswith("0001"):
        return None
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", written).replace("Z", "+00:00"))
