"""What holds a tear-down up, and what is left after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from doctor.checks.data_plane import asking, proxied, restart
from doctor.model import (
    INJECTION_LABEL,
    REVISION_LABEL,
    STACK_ANNOTATION,
    Check,
    Cluster,
    Finding,
    Json,
    Phase,
    Severity,
    condition,
    finalizers,
    labels,
    name,
    namespace,
    notes,
    why,
)

_ABSENT = (Phase.ABSENT,)

_SOON = timedelta(minutes=1)
"""How long a deletion takes that nothing is wrong with: pods may use 30 s of it to end
(terminationGracePeriodSeconds)."""

_STUCK = (
    *("NamespaceDeletionDiscoveryFailure", "NamespaceDeletionContentFailure"),
    "NamespaceFinalizersRemaining",
)
"""Conditions of a namespace whose deletion waits for somebody."""


def _terminating(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.of("Namespace"):
        since = one["metadata"].get("deletionTimestamp")
        if since is None:
            continue
        reasons = {
            kind: str(said.get("message"))
            for kind in (*_STUCK, "NamespaceContentRemaining")
            if (said := condition(one, kind)).get("status") == "True"
        }
        held = [item for item in (cluster.left or {}).get(name(one), ()) if finalizers(item)]
        young = cluster.now - datetime.fromisoformat(since) < _SOON
        if young and not held and reasons.keys().isdisjoint(_STUCK):
            continue
        names = ", ".join(f"{i['kind']} {name(i)} ({', '.join(finalizers(i))})" for i in held)
        reason = f"held by {names}" if held else " ".join(reasons.values()) or "nobody says why"
        wait = cluster.command("wait", "--for=delete", f"namespace/{name(one)}", "--timeout=5m")
        yield Finding(
            problem=f"namespace {name(one)} is being deleted since {since}: {reason}",
            fix=(*(_release(cluster, _resource(item), item) for item in held), wait),
        )


def _resource(item: Json) -> str:
    """An object's kind as kubectl takes it: `ConfigMap`, `Deployment.v1.apps`."""
    group, _, version = str(item["apiVersion"]).rpartition("/")
    return f"{item['kind']}.{version}.{group}" if group else str(item["kind"])


def _release(cluster: Cluster, resource: str, item: Json) -> str:
    """Takes an object's finalizers away."""
    where = ("--namespace", namespace(item)) if namespace(item) else ()
    patch = '{"metadata":{"finalizers":null}}'
    words = ("patch", resource, name(item), "--type=merge", "--patch", patch)
    return cluster.command(*where, *words)


def _finalizers(cluster: Cluster) -> Iterator[Finding]:
    for resource, item in cluster.istio_objects:
        if held := finalizers(item):
            going = "deletionTimestamp" in item["metadata"]
            then = "is being deleted and waits" if going else "will wait when it is deleted"
            yield Finding(
                problem=f"{item['kind']} {namespace(item)}/{name(item)} {then} for "
                f"{', '.join(held)}",
                fix=(_release(cluster, resource, item),),
            )


def _api_services(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.of("APIService"):
        available = condition(one, "Available")
        if available.get("status") == "False":
            gone = available.get("reason") == "ServiceNotFound"
            verb = "delete" if gone else "describe"
            yield Finding(
                problem=f"APIService {name(one)} does not answer, and no namespace can be deleted "
                f"while it does not: {why(available)}",
                fix=(cluster.command(verb, "apiservice", name(one)),),
            )


def _own_namespaces(cluster: Cluster) -> Iterator[Finding]:
    for one in _owned(cluster):
        yield Finding(
            problem=f"namespace {name(one)} of stack {notes(one)[STACK_ANNOTATION]} is left",
            # its stack may well be there, if it is not known that nothing is in it
            fix=(
                cluster.command("delete", "namespace", name(one))
                if cluster.state
                else f"pulumi destroy --stack {notes(one)[STACK_ANNOTATION].rpartition('/')[2]}",
            ),
        )


def _volumes(cluster: Cluster) -> Iterator[Finding]:
    owned = {name(one) for one in _owned(cluster)}
    for one in cluster.of("PersistentVolumeClaim"):
        if namespace(one) in owned:
            yield Finding(
                problem=f"PersistentVolumeClaim {namespace(one)}/{name(one)} is left, and its data",
                fix=(cluster.command("--namespace", namespace(one), "delete", "pvc", name(one)),),
            )


def _owned(cluster: Cluster) -> Iterator[Json]:
    """Namespaces that a stack made and that nobody deletes."""
    for one in cluster.of("Namespace"):
        owner = notes(one).get(STACK_ANNOTATION)
        if owner and cluster.stack in (None, owner) and "deletionTimestamp" not in one["metadata"]:
            yield one


def _config_maps(cluster: Cluster) -> Iterator[Finding]:
    found: dict[str, list[str]] = defaultdict(list)
    for one in cluster.of("ConfigMap"):
        found[name(one)].append(namespace(one))
    for what, places in found.items():
        selector = f"--field-selector=metadata.name={what}"
        yield Finding(
            problem=f"ConfigMap {what} is left in {', '.join(sorted(places))}",
            fix=(cluster.command("delete", "configmap", "--all-namespaces", selector),),
        )


def _cluster_roles(cluster: Cluster) -> Iterator[Finding]:
    for kind in ("ClusterRoleBinding", "ClusterRole"):
        left = [
            name(one)
            for one in cluster.of(kind)
            if labels(one).get("app") in ("istiod", "istio-reader")
        ]
        if left:
            yield Finding(
                problem=f"{kind} {', '.join(left)} left",
                fix=(cluster.command("delete", kind.lower(), *left),),
            )


def _crds_left(cluster: Cluster) -> Iterator[Finding]:
    crds = [name(one) for one in cluster.istio_crds]
    if crds:
        users = sum(1 for _ in cluster.istio_objects)
        yield Finding(
            problem=f"{len(crds)} CRDs of Istio are left, with {users} objects (keepCrds keeps "
            "them on purpose, and an install takes them over)",
            fix=(cluster.command("delete", "crd", *crds),),
        )


def _labels_left(cluster: Cluster) -> Iterator[Finding]:
    for one, wants in asking(cluster):
        off = [f"{key}-" for key in (INJECTION_LABEL, REVISION_LABEL) if key in labels(one)]
        yield Finding(
            problem=f"namespace {name(one)} has {wants}={labels(one)[wants]}, and there is no "
            "control plane that could inject",
            fix=(cluster.command("label", "namespace", name(one), *off),),
        )


def _sidecars_left(cluster: Cluster) -> Iterator[Finding]:
    for pod in proxied(cluster):
        yield Finding(
            problem=f"pod {namespace(pod)}/{name(pod)} still has a proxy, and no control plane",
            fix=(restart(cluster, pod),),
        )


def _still_wanted(cluster: Cluster) -> str | None:
    return "the control plane is to come back" if cluster.wanted is Phase.INSTALLED else None


CHECKS = (
    Check(
        id="namespaces-terminating",
        category="tear-down",
        claim="no namespace is stuck while it is deleted",
        run=_terminating,
        needs=("Namespace",),
    ),
    Check(
        id="apiservices",
        category="tear-down",
        claim="every APIService answers",
        run=_api_services,
        severity=Severity.WARNING,
        needs=("APIService",),
    ),
    Check(
        id="finalizers",
        category="tear-down",
        claim="no object of Istio's kinds has a finalizer",
        run=_finalizers,
        severity=Severity.WARNING,
        needs=("CustomResourceDefinition",),
    ),
    Check(
        id="left-namespaces",
        category="leftovers",
        claim="no namespace of the stack is left",
        run=_own_namespaces,
        severity=Severity.WARNING,
        needs=("Namespace",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-volumes",
        category="leftovers",
        claim="no volume of the stack is left",
        run=_volumes,
        severity=Severity.WARNING,
        needs=("Namespace", "PersistentVolumeClaim"),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-configmaps",
        category="leftovers",
        claim="no ConfigMap of istiod's is left",
        run=_config_maps,
        severity=Severity.WARNING,
        needs=("ConfigMap",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-roles",
        category="leftovers",
        claim="no ClusterRole or binding of Istio's is left",
        run=_cluster_roles,
        severity=Severity.WARNING,
        needs=("ClusterRole", "ClusterRoleBinding"),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-labels",
        category="leftovers",
        claim="no namespace asks for sidecars",
        run=_labels_left,
        severity=Severity.WARNING,
        needs=("Namespace",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-sidecars",
        category="leftovers",
        claim="no pod has a proxy",
        run=_sidecars_left,
        severity=Severity.WARNING,
        needs=("Pod",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-crds",
        category="leftovers",
        claim="no CRD of Istio's is left",
        run=_crds_left,
        severity=Severity.WARNING,
        needs=("CustomResourceDefinition",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
)
