"""From a service's rows to steps that can be run, and from what came of one to whether the deployment goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from controlplane.kernel.errors import Refused
from controlplane.kernel.local_secrets import data_dir

from . import kinds, runner
from .base import Findings, StepSeen, StepSpec
from .fetch import KIND as FETCH
from .fetch import read_fetch
from .names import named

#: What goes on and what stops: a warning goes on.
Verdict = Literal["passed", "warned", "failed"]

_FROZEN = (
    "phase", "position", "name", "kind", "command", "working_directory", "timeout_seconds", "blocks", "unknown_policy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a release's steps run. ``checkout`` None: an image, of which nothing is checked out.

    Checks get none of the service's variables: a test suite must not find the production database. Builds get
    ``environ``; ``secret_environ`` only those that validate. Its values are masked in the output of all of them.
    """

    service: str
    version: str
    checkout: Path | None
    environ: Mapping[str, str] = field(default_factory=dict)
    secret_environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    environment: str = ""
    region: str = ""
    digest: str = ""
    url: str = ""


def freeze_step(step: Any) -> dict[str, Any]:
    """A ``PipelineStep`` as it is kept in ``StepRun.spec``."""
    return {name: getattr(step, name) for name in _FROZEN}


def step_spec(row: Mapping[str, Any], place: Place) -> StepSpec:
    """What is to be run for a frozen row. Make it when the step begins: an earlier one may have made ``.venv``.

    Refused where the command or the directory is impossible.
    """
    cwd = _directory(str(row.get("working_directory") or ""), place)
    bin_folder = _venv(place.checkout)
    python = str(bin_folder / "python") if bin_folder else sys.executable
    words = {
        "{python}": python, "{checkout}": str(place.checkout or cwd), "{service}": place.service,
        "{version}": place.version, "{url}": place.url,
    }  # fmt: skip
    argv = []
    for part in kinds.get(str(row["kind"])).argv(str(row.get("command") or "")):
        for word, value in words.items():
            part = part.replace(word, value)  # noqa: PLW2901
        argv.append(part)
    return StepSpec(
        name=str(row["name"]),
        kind=str(row["kind"]),
        argv=tuple(argv),
        cwd=cwd,
        timeout_seconds=int(row["timeout_seconds"]),
        environ=_environ(str(row["phase"]), place, bin_folder, python),
        secrets=tuple(str(value) for value in place.secret_environ.values()),
    )


def step_specs(rows: Iterable[Mapping[str, Any]], phase: str, place: Place) -> list[StepSpec]:
    """Those of one phase, in their order, as they would be run now."""
    chosen = [row for row in rows if row["phase"] == phase]
    return [step_spec(row, place) for row in sorted(chosen, key=lambda row: (int(row["position"]), str(row["name"])))]


def read_step(kind: str, output: str, seen: StepSeen) -> Findings:
    """What came of an ended step of that kind; a fetch is one, too. ``output`` is its end (``runner.output_tail``)."""
    return read_fetch(output, seen) if kind == FETCH else kinds.get(kind).read(output, seen)


def judge_outcome(findings: Findings, blocks: bool, unknown_policy: str) -> Verdict:
    """Whether the deployment goes on: ``failed`` stops it. Pure.

    A step that does not block never stops anything. Of one that blocks, ``unknown_policy`` ``block`` or ``warn`` says
    what it means that nothing could be told.
    """
    if findings.outcome in ("passed", "warned"):
        return "passed" if findings.outcome == "passed" else "warned"
    if not blocks or (findings.outcome == "unknown" and unknown_policy == "warn"):
        return "warned"
    return "failed"


def run_folder(service: str, deployment: str, phase: str, position: int, attempt: int) -> Path:
    """Where a run of a step keeps its output and its end."""
    return data_dir() / "deployments" / named(service) / "runs" / named(deployment) / f"{phase}-{position:03}-{attempt}"


def _directory(within: str, place: Place) -> Path:
    """The step's directory, certainly inside the checkout."""
    if place.checkout is None:
        folder = data_dir() / "deployments" / named(place.service) / "empty"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
    root = place.checkout.resolve()
    folder = (root / within).resolve()
    if not folder.is_relative_to(root):
        raise Refused(
            f"The working directory {within} is not within the release's checkout.",
            remedy="Give a path below it, without .. and without links that lead out.",
        )
    return folder


def _venv(checkout: Path | None) -> Path | None:
    """The directory of programs of the release's own virtual environment; None where it has none."""
    folder = checkout / ".venv" / "bin" if checkout is not None else None
    return folder if folder is not None and os.access(folder / "python", os.X_OK) else None


def _environ(phase: str, place: Place, bin_folder: Path | None, python: str) -> dict[str, str]:
    given: dict[str, str] = {}
    if phase != "check":
        given |= {name: str(value) for name, value in place.environ.items()}
    if phase == "validate":
        given |= {name: str(value) for name, value in place.secret_environ.items()}
    paths = [given.get("PATH") or runner.small_environment()["PATH"], str(Path(sys.executable).parent)]
    own = {
        "DEPLOY_SERVICE": place.service, "DEPLOY_VERSION": place.version, "DEPLOY_PHASE": phase,
        "DEPLOY_ENVIRONMENT": place.environment, "DEPLOY_REGION": place.region, "DEPLOY_DIGEST": place.digest,
        "DEPLOY_URL": place.url, "DEPLOY_CHECKOUT": str(place.checkout or ""),
        "PIPAPI_PYTHON_LOCATION": python,  # pip-audit looks into this environment, wherever it is installed itself
    }  # fmt: skip
    if bin_folder is not None:
        own["VIRTUAL_ENV"] = str(bin_folder.parent)
        paths.insert(0, str(bin_folder))
    return {**own, **given, "PATH": os.pathsep.join(paths)}
