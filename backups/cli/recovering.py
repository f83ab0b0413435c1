"""``backup kit`` and ``backup rebuild-catalogue``: what a new machine begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backups import catalogue, keys
from backups.errors import StorageRefused
from backups.kit import FILE_NAME, Installed, install_kit, make_kit, open_kit
from backups.models import StorageTarget
from controlplane.kernel import clock
from controlplane.kernel.errors import ConfigurationError, Refused, Unavailable

from . import exits
from .output import Output


def kit(options: Mapping[str, Any], output: Output) -> int:
    if options["install"]:
        installed = _install(options["install"], options["identity"])
        output.document(asdict(installed))
        _tell_installed(options["install"], installed, output)
        return exits.DONE
    path = Path(options["output"] or FILE_NAME)
    if not path.resolve().parent.is_dir():
        raise Refused(f"There is no directory {path.resolve().parent}.", remedy="Name another file with --output.")
    if not keys.write_once(path, make_kit()):
        raise Refused(f"{path} exists already.", remedy="Name another file with --output, or move it away.")
    output.document({"file": str(path.resolve())})
    output.line(f"✓ {path} written. Keep kit and recovery key in two places: only together do they open anything.")
    return exits.DONE


def _install(path: str, identity: str | None) -> Installed:
    if not identity:
        raise Refused("A kit is opened with the recovery key.", remedy="Give its file with --identity.")
    return install_kit(open_kit(Path(path), keys.identity_from_file(Path(identity))))


def _tell_installed(path: str, installed: Installed, output: Output) -> None:
    output.line(f"✓ {path} installed")
    for words, names in (
        ("targets added", installed.added_targets),
        ("targets that were there and stay as they are", installed.present_targets),
        ("signing keys trusted", installed.trusted_keys),
    ):
        if names:
            output.line(f"  {words}: {', '.join(names)}")
    if installed.fields_key_added:
        output.line("  the key of encrypted fields was added: restart whatever of this installation runs")


def rebuild(options: Mapping[str, Any], output: Output) -> int:
    installed = None
    if options["kit"]:
        installed = _install(options["kit"], options["identity"])
        _tell_installed(options["kit"], installed, output)
    found: dict[str, Any] = {}
    code = exits.DONE
    for target in _targets(options["target"]):
        found[target.name], target_code = _rebuild(target, output)
        code = max(code, target_code)
    output.document({"kit": asdict(installed) if installed else None, "targets": found})
    return code


def _targets(name: str | None) -> list[StorageTarget]:
    targets = {target.name: target for target in StorageTarget.objects.order_by("name")}
    if name and name not in targets:
        raise Refused(f"There is no target named {name}.", remedy=f"There are: {', '.join(targets) or 'none'}.")
    if not targets:
        raise Refused("There is no target yet.", remedy="Install a kit with --kit, or add the target in the admin.")
    return [targets[name]] if name else list(targets.values())


def _rebuild(target: StorageTarget, output: Output) -> tuple[dict[str, Any], int]:
    """One target; what is wrong with it keeps nobody from the others."""
    try:
        rebuilt = catalogue.rebuild(target, clock.now())
    except Unavailable as error:
        output.line(f"? {target.name}: {error}")
        return {"error": str(error)}, exits.UNKNOWN
    except (ConfigurationError, StorageRefused) as error:
        output.line(f"✗ {target.name}: {error}")
        return {"error": str(error)}, exits.FAILED
    mark = "!" if rebuilt.unreadable else "✓"
    output.line(f"{mark} {target.name}: {len(rebuilt.added)} restore points added, {rebuilt.known} were known")
    for name in rebuilt.added:
        output.line(f"  {name}")
    for prefix, why in rebuilt.unreadable.items():
        output.line(f"  ! {prefix}: {why}")
    return asdict(rebuilt), exits.WARNINGS if rebuilt.unreadable else exits.DONE
