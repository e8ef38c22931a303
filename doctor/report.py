"""The report: lines in the manner of `linkerd check`, or JSON with its keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TextIO

from doctor.model import Cluster, Finding, Outcome, Result

_CROSS = "\N{MULTIPLICATION SIGN}"
_MARKS = {Result.SUCCESS: "√", Result.WARNING: "‼", Result.ERROR: _CROSS, Result.SKIPPED: "-"}

_SHOWN = 5
"""Findings of one check that a person is shown; JSON has all."""


def healthy(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing fatal was found."""
    return not any(one.result is Result.ERROR for one in outcomes)


def as_text(cluster: Cluster, outcomes: Sequence[Outcome], out: TextIO) -> None:
    """For people."""
    print(f"Kubernetes {cluster.server}, Istio {cluster.phase or 'unknown'}", file=out)
    for category, group in groupby(outcomes, lambda one: one.check.category):
        print(f"\n{category}\n{'-' * len(category)}", file=out)
        for one in group:
            for line in _lines(one):
                print(line, file=out)
    names = ("fine", "warnings", "fatal", "skipped")
    counts = [sum(one.result is kind for one in outcomes) for kind in Result]
    said = ", ".join(f"{what} {count}" for what, count in zip(names, counts, strict=True))
    verdict = _MARKS[Result.SUCCESS if healthy(outcomes) else Result.ERROR]
    print(f"\nStatus is {verdict}: {said}", file=out)


def _lines(one: Outcome) -> list[str]:
    said = f"{_MARKS[one.result]} {one.check.claim}"
    if one.reason:
        return [f"{said}: skipped, {one.reason}"]
    shown, more = one.findings[:_SHOWN], one.findings[_SHOWN:]
    lines = [said, *(f"    {finding.problem}" for finding in shown)]
    if more:
        lines.append(f"    and {len(more)} more (-o json)")
    return lines + [f"    fix: {command}" for command in _fixes(one.findings)[:_SHOWN]]


def _fixes(findings: Sequence[Finding]) -> list[str]:
    """The commands, each once: two pods may belong to one Deployment."""
    return [*dict.fromkeys(command for one in findings for command in one.fix)]


def as_json(cluster: Cluster, outcomes: Sequence[Outcome], out: TextIO) -> None:
    """For scripts: `success`, and for every check `id`, `result` and `findings`.

    `success`, `categories`, `categoryName`, `checks`, `description`, `result` and `error` are those
    of `linkerd check -o json`; `result` may also be `skipped`, with `error` saying why.
    """
    document = {
        "success": healthy(outcomes),
        "phase": cluster.phase,
        "kubernetes": cluster.server,
        "categories": [
            {"categoryName": category, "checks": [_entry(one) for one in group]}
            for category, group in groupby(outcomes, lambda one: one.check.category)
        ],
    }
    json.dump(document, out, indent=2, ensure_ascii=False)
    print(file=out)


def _entry(one: Outcome) -> dict[str, object]:
    return {
        "id": one.check.id,
        "description": one.check.claim,
        "severity": one.check.severity,
        "result": one.result,
        "error": one.reason or "; ".join(finding.problem for finding in one.findings),
        "findings": [{"problem": f.problem, "fix": [*f.fix]} for f in one.findings],
    }
