"""The security audit of a Python environment: what pip-audit knows of its packages.

No answer is not a good answer: a package that could not be looked up, or a source that cannot be reached, is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.pipeline.base import Findings, StepSeen

from .common import count, ended_otherwise, finding, last_line, missing_tool, own_or, some

OWN = ("pip-audit", "--format", "json", "--progress-spinner", "off", "--desc", "off")


@dataclass(frozen=True, slots=True)
class PipAudit:
    """``pip-audit``: a known vulnerability fails; a skipped package or no answer cannot be told."""

    name: str = "pip_audit"
    label: str = "security audit (pip-audit)"

    def argv(self, command: str) -> Sequence[str]:
        """The operator's command, else an audit of the release's environment."""
        return own_or(command, OWN)

    def read(self, output: str, seen: StepSeen) -> Findings:
        """How many vulnerabilities in which packages, and what mends them."""
        if (early := missing_tool(output, seen, "pip-audit") or ended_otherwise(seen)) is not None:
            return early
        packages = _packages(output)
        if packages is None:
            said = last_line(output) or "it said nothing"
            return finding("unknown", f"The audit came to no answer (exit code {seen.exit_code}): {said}")
        skipped = [str(one.get("name")) for one in packages if "skip_reason" in one]
        bad = [one for one in packages if one.get("vulns")]
        vulnerabilities = sum(len(one["vulns"]) for one in bad)
        numbers = {
            "vulnerabilities": vulnerabilities,
            "packages": len(packages),
            "skipped": len(skipped),
            "vulnerable": {str(one.get("name")): [str(v.get("id")) for v in one["vulns"]] for one in bad},
        }
        if bad:
            which = some([_described(one) for one in bad])
            many = count(vulnerabilities, "known vulnerability", "known vulnerabilities")
            return finding("failed", f"{many}: {which}", numbers)
        if skipped:
            many = count(len(skipped), "package was", "packages were")
            return finding("unknown", f"{many} not looked up: {some(skipped)}.", numbers)
        if seen.exit_code != 0:
            return finding("unknown", f"The audit ended with exit code {seen.exit_code}: {last_line(output)}", numbers)
        return finding("passed", f"No known vulnerability in {count(len(packages), 'package')}.", numbers)


def _packages(output: str) -> list[Mapping[str, Any]] | None:
    """The report's packages, wherever among the tool's remarks it stands; None where there is none."""
    at = output.rfind('{"dependencies":')
    if at < 0:
        return None
    try:
        report, _end = json.JSONDecoder().raw_decode(output, at)
        packages: list[Mapping[str, Any]] = [one for one in report["dependencies"] if isinstance(one, dict)]
    except (ValueError, KeyError, TypeError):
        return None
    return packages


def _described(package: Mapping[str, Any]) -> str:
    """``jinja2 3.1.2 (CVE-2024-22195, mended in 3.1.3)``; where nothing mends it, that is said."""
    ids = ", ".join(str(one.get("id")) for one in package["vulns"][:3])
    fixes = sorted({str(fix) for one in package["vulns"] for fix in one.get("fix_versions") or ()}, key=_numeric)
    return f"{package.get('name')} {package.get('version', '')} ({ids}; {_mended(fixes)})"


def _mended(fixes: Sequence[str]) -> str:
    return f"mended in {', '.join(fixes)}" if fixes else "no release mends it yet"


def _numeric(version: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else 0, part) for part in version.split(".")]
