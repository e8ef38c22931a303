"""The lines at the end of `make up`: what runs where, what is STRICT, the proof, what to try."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from lab.cluster import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lab.stack import Stack

DASHBOARDS = {
    "kiali": "the mesh as a graph",
    "grafana": "dashboards of the mesh, and of what of it is mutual TLS",
    "jaeger": "traces of requests",
    "prometheus": "the metrics behind them",
}
"""By their names in the output `observability`; each has a target in the Makefile."""


def summarise(stack: Stack, outputs: dict[str, Any], url: str | None, proof: str) -> str:
    """Read the cluster's pods, and say what there is.

    Args:
        stack: what is summarised.
        outputs: its outputs.
        url: where Bookinfo's page is; None where only the stack's own output can tell.
        proof: what `make verify` prints.

    Raises:
        LabError: kubectl failed.
    """
    pods: list[dict[str, Any]] = []
    for namespace in outputs["mtls"]:
        kubectl = ("kubectl", *stack.cluster(), "-n", namespace)
        pods += json.loads(stack.read(*kubectl, "get", "pods", "-o", "json"))["items"]
    if url is not None and "productpage" in outputs:
        outputs = {**outputs, "productpage": url}
    return text(outputs, pods, proof)


def text(outputs: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], proof: str = "") -> str:
    """The summary of these stack outputs, pods and proof."""
    # an exception and its reason are part of the mode's words
    width = max(len(mode) for mode in outputs["mtls"].values())
    width = max(width, len("PERMISSIVE")) + 3
    lines = [
        "",
        f"Istio {outputs['istioVersion']} ({outputs['profile']}) on {outputs['kubeContext']}",
        "",
        f"  {'NAMESPACE':<16}{'MTLS':<{width}}{'PODS READY':<13}{'WITH SIDECAR':<15}SIMULATED",
    ]
    counted: dict[str, Counter[str]] = {namespace: Counter() for namespace in outputs["mtls"]}
    simulated = set()
    for pod in pods:
        count = counted[pod["metadata"]["namespace"]]
        count["all"] += 1
        count["ready"] += is_ready(pod)
        count["sidecar"] += _has_sidecar(pod)
        if SIMULATED in (pod["metadata"].get("annotations") or {}):
            count["simulated"] += 1
            simulated.add((pod["metadata"].get("labels") or {}).get("app"))
    for namespace, mode in outputs["mtls"].items():
        count = counted[namespace]
        ready = f"{count['ready']} of {count['all']}"
        lines.append(
            f"  {namespace:<16}{mode:<{width}}{ready:<13}{count['sidecar']:<15}{count['simulated']}"
        )
    if proof:
        lines += ["", *(f"  {line}" for line in proof.splitlines())]
    lines += ["", "Next:"]
    if "productpage" in outputs:
        lines.append(f"  open {outputs['productpage']}")
    lines += [
        f"  make {part:<11}{what}"
        for part, what in DASHBOARDS.items()
        if part in outputs.get("observability", {}) and part not in simulated
    ]
    lines += [
        "  make preview    what a change of settings would do, object by object",
        "  make down       take all of it away",
        "",
    ]
    return "\n".join(lines)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether Kubernetes sends requests to the pod."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _has_sidecar(pod: Mapping[str, Any]) -> bool:
    return "sidecar.istio.io/status" in (pod["metadata"].get("annotations") or {})
