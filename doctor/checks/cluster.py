"""The cluster itself, and what the caller may do in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from doctor.model import (
    Check,
    Cluster,
    Finding,
    Json,
    Severity,
    condition,
    minor,
    name,
    why,
)

MIN_KUBERNETES = {28: 29, 29: 30, 30: 32, 31: 32}
"""Minor of an Istio release, and the oldest minor of Kubernetes that its `x precheck` lets pass.

Source: istioctl/pkg/install/k8sversion/version.go of each release.
"""

_KUBECTL_SKEW = 1
"""Minors that kubectl may be older or newer (kubernetes.io/releases/version-skew-policy)."""

_KUBELET_SKEW = 3
"""Minors that a kubelet may be older than the API server, from the same page."""

_NATIVE_SIDECARS = 33
"""Minor of the kubelets from which istiod injects native sidecars, when every node has it.

Source: pkg/kube/inject/webhook.go, DetectNativeSidecar.
"""


def _kubernetes(cluster: Cluster) -> Iterator[Finding]:
    asked, have = _asked(cluster), minor(cluster.server)
    needs = MIN_KUBERNETES.get(minor(asked or "") or 0)
    if needs and have is not None and have < needs:
        yield Finding(
            problem=f"Istio {asked} needs Kubernetes 1.{needs} or newer, this is {cluster.server}"
        )


def _no_istio_version(cluster: Cluster) -> str | None:
    asked = _asked(cluster)
    if asked is None:
        return "no istiod tells its version; --istio-version says which is to be installed"
    if minor(asked) not in MIN_KUBERNETES:
        return f"it is not known here which Kubernetes Istio {asked} needs"
    return None


def _asked(cluster: Cluster) -> str | None:
    running = next(iter(cluster.istio_versions), None)
    return cluster.istio_version or running


def _kubectl(cluster: Cluster) -> Iterator[Finding]:
    mine, theirs = minor(cluster.client), minor(cluster.server)
    if None not in (mine, theirs) and abs((mine or 0) - (theirs or 0)) > _KUBECTL_SKEW:
        yield Finding(
            problem=f"kubectl is {cluster.client} and the cluster {cluster.server}: "
            "more than one minor version apart"
        )


def _nodes_ready(cluster: Cluster) -> Iterator[Finding]:
    for node in cluster.of("Node"):
        ready = condition(node, "Ready")
        if ready.get("status") != "True":
            yield Finding(
                problem=f"node {name(node)} is not ready: {why(ready)}",
                fix=(cluster.command("describe", "node", name(node)),),
            )


def _kubelets(cluster: Cluster) -> Iterator[Finding]:
    server = minor(cluster.server)
    for node in cluster.of("Node"):
        version = _kubelet(node)
        have = minor(version)
        if server is not None and have is not None and not 0 <= server - have <= _KUBELET_SKEW:
            yield Finding(
                problem=f"node {name(node)} runs kubelet {version}, the API server "
                f"{cluster.server}: it may be {_KUBELET_SKEW} minor versions older, not newer"
            )


def _native_sidecars(cluster: Cluster) -> Iterator[Finding]:
    for node in cluster.of("Node"):
        have = minor(_kubelet(node))
        if have is not None and have < _NATIVE_SIDECARS:
            yield Finding(
                problem=f"node {name(node)} runs kubelet {_kubelet(node)}: below "
                f"1.{_NATIVE_SIDECARS} no pod of the cluster gets a native sidecar, and a Job's "
                "pods do not end by themselves"
            )


def _kubelet(node: Json) -> str:
    return str(node["status"].get("nodeInfo", {}).get("kubeletVersion", ""))


def _readable(cluster: Cluster) -> Iterator[Finding]:
    if cluster.unread:
        kinds = ", ".join(cluster.unread.values())
        rights = f"--resource={','.join(cluster.unread.values())}"
        yield Finding(
            problem=f"{kinds} may not be listed, and what they would tell is not checked",
            fix=(
                cluster.command("create", "clusterrole", "doctor", "--verb=list", rights),
                _bind(cluster, "doctor"),
            ),
        )


def _rights(cluster: Cluster) -> Iterator[Finding]:
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for right in cluster.denied:
        missing[right.resource, right.namespace].append(right.verb)
    for (resource, where), verbs in missing.items():
        scope = f"in {where}" if where else "in the cluster"
        yield Finding(
            problem=f"you may not {_either(verbs)} {resource} {scope}",
            # who makes a role must have what it grants, and Istio's grant much
            fix=(_bind(cluster, "cluster-admin"),),
        )


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _bind(cluster: Cluster, role: str) -> str:
    user = f"--user={cluster.user or 'NAME'}"
    words = ("create", "clusterrolebinding", f"service-mesh-{role}", f"--clusterrole={role}", user)
    return f"{cluster.command(*words)}  # as an administrator"


CHECKS = (
    Check(
        id="kubernetes-version",
        category="kubernetes",
        claim="Istio runs on this version of Kubernetes",
        run=_kubernetes,
        skip=_no_istio_version,
    ),
    Check(
        id="kubectl-version",
        category="kubernetes",
        claim="kubectl is at most one minor version away",
        run=_kubectl,
        severity=Severity.WARNING,
    ),
    Check(
        id="nodes-ready",
        category="kubernetes",
        claim="every node is ready",
        run=_nodes_ready,
        severity=Severity.WARNING,
        needs=("Node",),
    ),
    Check(
        id="kubelet-version",
        category="kubernetes",
        claim="kubelets are as new as the API server allows",
        run=_kubelets,
        severity=Severity.WARNING,
        needs=("Node",),
    ),
    Check(
        id="native-sidecars",
        category="kubernetes",
        claim="every node can run native sidecars",
        run=_native_sidecars,
        severity=Severity.WARNING,
        needs=("Node",),
    ),
    Check(
        id="may-read",
        category="rights",
        claim="you may list what is checked",
        run=_readable,
        severity=Severity.WARNING,
    ),
    Check(
        id="may-change",
        category="rights",
        claim="you may create, patch and delete what an update does",
        run=_rights,
    ),
)
