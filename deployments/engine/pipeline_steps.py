"""The steps of a deployment's pipeline: frozen as it begins, then begun, looked at, read, killed; never waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from controlplane.kernel import clock
from controlplane.kernel.errors import ZantaraError
from controlplane.kernel.logs import redact_text
from deployments.models import Deployment, PipelineStep, Release, Service, StepRun
from deployments.pipeline import fetch, runner
from deployments.pipeline.base import StepSeen, StepSpec
from deployments.pipeline.steps import Place, freeze_step, judge_outcome, read_step, run_folder, step_spec
from deployments.rollout.types import StepView

from .held import Held
from .steps import step_reached

log = structlog.get_logger(__name__)

#: Of a step's output so much is read for its findings.
READ_BYTES = 4 << 20
_PLAN = "steps"
_FETCH: dict[str, Any] = {
    "phase": "fetch", "position": 0, "name": "Fetch", "kind": fetch.KIND, "blocks": True, "unknown_policy": "block",
}  # fmt: skip


def plan_of(service: Service) -> list[dict[str, Any]]:
    """The service's steps as they are now, for the memory of a deployment that begins: later edits are not for it."""
    found: list[dict[str, Any]] = []
    for phase in PipelineStep.Phase.values:
        rows = service.steps.filter(enabled=True, phase=phase).order_by("position", "pk")
        found += [{**freeze_step(row), "position": position} for position, row in enumerate(rows)]
    return found


def look(held: Held) -> tuple[StepView, ...]:
    """Every planned step with its last run; one that has ended since is read and written down."""
    deployment = held.deployment
    if deployment is None or deployment.is_over:
        return ()
    runs: dict[tuple[str, int], StepRun] = {}
    for run in deployment.step_runs.order_by("attempt"):
        runs[run.phase, run.position] = run
    return tuple(
        _view(held, planned, runs.get((planned["phase"], planned["position"]))) for planned in _planned(deployment)
    )


def _planned(deployment: Deployment) -> list[dict[str, Any]]:
    """Of one that skips the pipeline only what validates it is left."""
    steps = list(deployment.memory.get(_PLAN, []))
    if deployment.skips_pipeline:
        return [step for step in steps if step["phase"] == "validate"]
    return steps if deployment.release.source_kind == Release.Source.IMAGE else [_FETCH, *steps]


def _view(held: Held, planned: dict[str, Any], run: StepRun | None) -> StepView:
    common: dict[str, Any] = {
        "phase": planned["phase"], "position": planned["position"], "name": planned["name"],
        "blocks": planned["blocks"], "unknown_blocks": planned["unknown_policy"] == "block",
    }  # fmt: skip
    if run is None:
        return StepView(**common)
    if not run.outcome:
        seen = runner.look(Path(run.folder), run.handle)
        if seen.running or seen.gone:
            return StepView(**common, status="running" if seen.running else "gone", attempt=run.attempt)
        _write_end(held, planned, run, seen)
    return StepView(**common, status=run.outcome, attempt=run.attempt, summary=run.summary)  # type: ignore[arg-type]


def _write_end(held: Held, planned: dict[str, Any], run: StepRun, seen: StepSeen) -> None:
    findings = read_step(run.kind, runner.output_tail(Path(run.folder), READ_BYTES), seen)
    verdict = judge_outcome(findings, planned["blocks"], planned["unknown_policy"])
    held.fence()
    run.started_at, run.finished_at = seen.started_at or run.started_at, seen.finished_at or clock.now()
    run.exit_code, run.findings = seen.exit_code, dict(findings.numbers)
    run.outcome = verdict if verdict != "failed" else findings.outcome
    run.summary = redact_text(findings.summary)[:500]
    run.save()
    if run.phase == "fetch" and verdict != "failed":
        _note_digest(run.deployment)


def _note_digest(deployment: Deployment) -> None:
    """What the release was resolved to, written once."""
    release = deployment.release
    found = fetch.fetched(deployment.service.name, release.version)
    if found is not None and not release.digest:
        release.digest = found.digest
        release.save(update_fields=["digest"])


def begin(held: Held, phase: str, position: int, attempt: int) -> None:
    """Write the run down, then begin it: whoever comes back finds it by its folder, begun or not."""
    deployment = held.deployment
    assert deployment is not None  # noqa: S101  (only called with one)
    planned = next(one for one in _planned(deployment) if (one["phase"], one["position"]) == (phase, position))
    held.fence()
    run, _ = StepRun.objects.get_or_create(
        deployment=deployment, phase=phase, position=position, attempt=attempt,
        defaults={"name": planned["name"], "kind": planned["kind"], "started_at": clock.now(), "spec": planned,
                  "folder": str(run_folder(held.service.name, deployment.name, phase, position, attempt))},
    )  # fmt: skip
    step_reached("step_written")
    try:
        spec = _spec(deployment, planned)
        run.handle = runner.begin(spec, Path(run.folder))
        run.spec = {**planned, "argv": list(spec.argv), "cwd": str(spec.cwd)}
    except ZantaraError as error:
        run.outcome, run.summary, run.finished_at = StepRun.Outcome.FAILED, redact_text(str(error))[:500], clock.now()
    step_reached("step_begun")
    run.save()


def kill(held: Held, phase: str, position: int, attempt: int) -> None:
    """End a step of a deployment that is over."""
    run = StepRun.objects.filter(
        deployment=held.deployment, phase=phase, position=position, attempt=attempt, outcome=""
    ).first()
    if run is None:
        return
    runner.kill(Path(run.folder), run.handle)
    step_reached("step_killed")
    run.outcome, run.summary = StepRun.Outcome.FAILED, "It was ended: the deployment is over."
    run.finished_at = clock.now()
    run.save()


def _spec(deployment: Deployment, planned: dict[str, Any]) -> StepSpec:
    service, release = deployment.service, deployment.release
    if planned["phase"] == "fetch":
        spec = fetch.fetch_spec(
            service.name, release.version, source_kind=release.source_kind, source=release.source, ref=release.ref,
            digest=release.digest,
        )  # fmt: skip
        assert spec is not None  # noqa: S101  (an image has no such step)
        return spec
    place = Place(
        service=service.name,
        version=release.version,
        checkout=checkout_of(service, release),
        environ=service.environ,
        secret_environ={name: str(value) for name, value in (service.secret_environ or {}).items()},
        environment=service.environment,
        region=service.region,
        digest=release.digest,
        url=f"http://127.0.0.1:{service.edge_port}{service.route_prefix}" if service.edge_port else "",
    )
    return step_spec(planned, place)


def checkout_of(service: Service, release: Release) -> Path | None:
    """Where a release's files are: what was fetched, else its directory in place; None without.

    In place only where it was never fetched: a directory goes on changing after what was fetched of it.
    """
    if fetch.fetched(service.name, release.version) is not None:
        return fetch.checkout_path(service.name, release.version)
    if release.source_kind == Release.Source.DIRECTORY and not release.digest and Path(release.source).is_dir():
        return Path(release.source)
    return None
