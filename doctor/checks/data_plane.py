"""Who asks for sidecars, and the proxies that run."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.model import (
    INJECTION_LABEL,
    REVISION_LABEL,
    Check,
    Cluster,
    Finding,
    Json,
    Phase,
    Severity,
    is_istios,
    labels,
    name,
    namespace,
    notes,
    release,
    tag,
)

_PROXY = "istio-proxy"
_INJECT = "sidecar.istio.io/inject"
_INSTALLED = (Phase.INSTALLED,)


def _two_labels(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.of("Namespace"):
        first, second = (labels(one).get(key) for key in (INJECTION_LABEL, REVISION_LABEL))
        if first is not None and second is not None:
            yield Finding(
                problem=f"namespace {name(one)} has both {INJECTION_LABEL}={first} "
                f"and {REVISION_LABEL}={second}: the second is not looked at",
                fix=(cluster.command("label", "namespace", name(one), f"{REVISION_LABEL}-"),),
            )


def _injector(cluster: Cluster) -> Iterator[Finding]:
    revisions = sorted(cluster.istio_versions.values())
    for one, wants in asking(cluster):
        if _meshed(cluster, one):
            continue
        # the default revision serves either label, another only its own
        to = [f"{REVISION_LABEL}-", f"{INJECTION_LABEL}=enabled"]
        if wants == INJECTION_LABEL and revisions:
            to = [f"{INJECTION_LABEL}-", f"{REVISION_LABEL}={revisions[0]}"]
        yield Finding(
            problem=f"namespace {name(one)} has {wants}={labels(one)[wants]}, and no injector "
            "serves it: its pods start without a sidecar",
            fix=(cluster.command("label", "namespace", name(one), *to),),
        )


def asking(cluster: Cluster) -> Iterator[tuple[Json, str]]:
    """Namespaces that ask for sidecars, each with the label that counts."""
    for one in cluster.of("Namespace"):
        wants = next((key for key in (INJECTION_LABEL, REVISION_LABEL) if key in labels(one)), None)
        if wants and labels(one).get(INJECTION_LABEL, "enabled") == "enabled":
            yield one, wants


def _meshed(cluster: Cluster, item: Json) -> bool:
    """Whether an injector takes the pods of a namespace, if they say nothing else."""
    hooks = [
        hook
        for one in cluster.of("MutatingWebhookConfiguration")
        if is_istios(one)
        for hook in one.get("webhooks") or ()
    ]
    return any(
        _selects(hook.get("namespaceSelector") or {}, labels(item))
        and _selects(hook.get("objectSelector") or {}, {})
        for hook in hooks
    )


def _selects(selector: Json, found: dict[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    same = all(found.get(k) == v for k, v in (selector.get("matchLabels") or {}).items())
    return same and all(_fits(one, found) for one in selector.get("matchExpressions") or ())


def _fits(expression: Json, found: dict[str, str]) -> bool:
    value = found.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case _:
            return value is None


def _without_sidecar(cluster: Cluster) -> Iterator[Finding]:
    meshed = {name(one) for one in cluster.of("Namespace") if _meshed(cluster, one)}
    for pod in cluster.of("Pod"):
        said = labels(pod).get(_INJECT) or notes(pod).get(_INJECT)
        apart = said == "false" or pod["spec"].get("hostNetwork")
        if namespace(pod) in meshed and _alive(pod) and not apart and not _proxy(pod):
            yield Finding(
                problem=f"pod {namespace(pod)}/{name(pod)} has no sidecar: it started before its "
                "namespace was labelled, or while the injector was away",
                fix=(restart(cluster, pod),),
            )


def _proxies_ready(cluster: Cluster) -> Iterator[Finding]:
    for pod in proxied(cluster):
        status = pod.get("status", {})
        every = [*(status.get("initContainerStatuses") or ())]
        every += status.get("containerStatuses") or ()
        if not any(one["name"] == _PROXY and one.get("ready") for one in every):
            where = ("--namespace", namespace(pod))
            yield Finding(
                problem=f"the proxy of pod {namespace(pod)}/{name(pod)} is not ready",
                fix=(
                    cluster.command(*where, "logs", name(pod), "--container", _PROXY, "--tail=50"),
                ),
            )


def _proxy_versions(cluster: Cluster) -> Iterator[Finding]:
    versions = cluster.istio_versions
    for pod in proxied(cluster):
        have = release(tag((_proxy(pod) or {}).get("image", "")))
        if have and versions and have not in versions:
            yield Finding(
                problem=f"the proxy of pod {namespace(pod)}/{name(pod)} is {have}, istiod "
                f"{', '.join(sorted(versions))}",
                fix=(restart(cluster, pod),),
            )


def _proxy_revisions(cluster: Cluster) -> Iterator[Finding]:
    revisions = {labels(one).get(REVISION_LABEL, "default") for one in cluster.istiods}
    for pod in proxied(cluster):
        have = notes(pod).get(REVISION_LABEL)
        if have and have not in revisions:
            yield Finding(
                problem=f"the proxy of pod {namespace(pod)}/{name(pod)} belongs to revision {have}"
                f", which is gone; there is {', '.join(sorted(revisions)) or 'none'}",
                fix=(restart(cluster, pod),),
            )


def proxied(cluster: Cluster) -> Iterator[Json]:
    """Pods that run with a proxy."""
    return (pod for pod in cluster.of("Pod") if _alive(pod) and _proxy(pod))


def _proxy(pod: Json) -> Json | None:
    containers = [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]
    return next((one for one in containers if one["name"] == _PROXY), None)


def _alive(pod: Json) -> bool:
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def restart(cluster: Cluster, pod: Json) -> str:
    """Makes a pod anew, by what it belongs to."""
    where = ("--namespace", namespace(pod))
    owner = next(iter(pod["metadata"].get("ownerReferences") or ()), {"kind": "", "name": ""})
    kind, named = str(owner["kind"]), str(owner["name"])
    if kind == "ReplicaSet" and (made := labels(pod).get("pod-template-hash")):
        kind, named = "Deployment", named.removesuffix(f"-{made}")
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        return cluster.command(*where, "rollout", "restart", f"{kind.lower()}/{named}")
    return cluster.command(*where, "delete", "pod", name(pod))


CHECKS = (
    Check(
        id="injection-labels",
        category="data plane",
        claim="no namespace has two injection labels",
        run=_two_labels,
        severity=Severity.WARNING,
        needs=("Namespace",),
    ),
    Check(
        id="injector",
        category="data plane",
        claim="every namespace that asks for sidecars has an injector",
        run=_injector,
        needs=("Namespace", "MutatingWebhookConfiguration"),
        phases=_INSTALLED,
    ),
    Check(
        id="sidecars",
        category="data plane",
        claim="every pod in the mesh has a sidecar",
        run=_without_sidecar,
        severity=Severity.WARNING,
        needs=("Namespace", "Pod", "MutatingWebhookConfiguration"),
        phases=_INSTALLED,
    ),
    Check(
        id="proxies-ready",
        category="data plane",
        claim="every proxy is ready",
        run=_proxies_ready,
        severity=Severity.WARNING,
        needs=("Pod",),
        phases=_INSTALLED,
    ),
    Check(
        id="proxies-version",
        category="data plane",
        claim="every proxy has istiod's version",
        run=_proxy_versions,
        severity=Severity.WARNING,
        needs=("Pod",),
        phases=_INSTALLED,
    ),
    Check(
        id="proxies-revision",
        category="data plane",
        claim="every proxy's revision is there",
        run=_proxy_revisions,
        needs=("Pod",),
        phases=_INSTALLED,
    ),
)
