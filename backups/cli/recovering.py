"""``backup kit`` and ``backup rebuild-catalogue``: what a new machine begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backups import catalogue, keys
from backups.kit import FILE_NAME, install_kit, make_kit, open_kit
from backups.models import StorageTarget
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from . import exits
from .output import Output


def kit(options: Mapping[str, Any], output: Output) -> int:
    if options["install"]:
        return _install(Path(options["install"]), options["identity"], output)
    path = Path(options["output"] or FILE_NAME)
    if path.exists():
        raise Refused(f"{path} exists already.", remedy="Name another file with --output, or move it away.")
    keys.write_once(path, make_kit())
    output.document({"file": str(path.resolve())})
    output.line(f"✓ {path} written. Keep it beside the recovery key; only together do they open anything.")
    return exits.DONE


def _install(path: Path, identity: str | None, output: Output) -> int:
    if not identity:
        raise Refused("A kit is opened with the recovery key.", remedy="Give its file with --identity.")
    installed = install_kit(open_kit(path, keys.identity_from_file(Path(identity))))
    output.document(asdict(installed))
    output.line(f"✓ {path} installed: {installed}")
    return exits.DONE


def rebuild(options: Mapping[str, Any], output: Output) -> int:
    if options["kit"]:
        _install(Path(options["kit"]), options["identity"], Output(output.console.file, as_json=False))
    targets = StorageTarget.objects.order_by("name")
    if options["target"]:
        targets = targets.filter(name=options["target"])
    if not targets:
        raise Refused("There is no such target.", remedy="Install a kit with --kit, or add the target in the admin.")
    found: dict[str, Any] = {}
    for target in targets:
        rebuilt = catalogue.rebuild(target, clock.now())
        found[target.name] = asdict(rebuilt)
        output.line(f"✓ {target.name}: {rebuilt}")
    output.document(found)
    return exits.DONE
