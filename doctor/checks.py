"""What is checked: one small function each, over what was read, and the table of them."""

from __future__ import annotations

import base64
import json
import shlex
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta

from doctor.certificate import blocks, not_after
from doctor.model import (
    STACK_ANNOTATION,
    Check,
    Cluster,
    Finding,
    Json,
    Part,
    Phase,
    Severity,
    condition,
    finalizers,
    is_istiod_release,
    labels,
    minor,
    name,
    namespace,
    notes,
    release,
    tag,
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

_SOON = timedelta(days=60)
"""How long before its end a root certificate is warned of; `linkerd check` has the same."""

CRDS = (
    *("trafficextensions.extensions.istio.io", "wasmplugins.extensions.istio.io"),
    *("destinationrules.networking.istio.io", "envoyfilters.networking.istio.io"),
    *("gateways.networking.istio.io", "proxyconfigs.networking.istio.io"),
    *("serviceentries.networking.istio.io", "sidecars.networking.istio.io"),
    *("virtualservices.networking.istio.io", "workloadentries.networking.istio.io"),
    *("workloadgroups.networking.istio.io", "authorizationpolicies.security.istio.io"),
    *("peerauthentications.security.istio.io", "requestauthentications.security.istio.io"),
    "telemetries.telemetry.istio.io",
)
"""What Istio 1.31's chart `base` installs. An older release may lack the first."""

_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_INJECTION, _REVISION, _INJECT = "istio-injection", "istio.io/rev", "sidecar.istio.io/inject"
_ROOT_CERT = "istio-ca-root-cert"
_PROXY = "istio-proxy"


# --- the cluster ---------------------------------------------------------------------------------


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
    running = next(iter(_istio_versions(cluster)), None)
    return cluster.istio_version or running


def _istio_versions(cluster: Cluster) -> dict[str, str]:
    """Versions of the control planes, and the revision of each."""
    found = {}
    for one in cluster.istiods:
        for container in one["spec"]["template"]["spec"]["containers"]:
            if version := release(tag(container["image"])):
                found[version] = labels(one).get(_REVISION, "default")
    return found


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
                problem=f"node {name(node)} is not ready: {_why(ready)}",
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


# --- the control plane ---------------------------------------------------------------------------


def _expected(cluster: Cluster) -> Iterator[Finding]:
    if cluster.wanted in (None, cluster.phase):
        return
    if cluster.phase is Phase.ABSENT:
        yield Finding(
            problem="there is no Deployment of istiod, and there should be one",
            # Pulumi and Helm believe that it is there, so that an update changes nothing
            fix=tuple(_releases(cluster).values()) or ("pulumi up",),
        )
    for one in cluster.istiods if cluster.phase is Phase.INSTALLED else ():
        yield Finding(
            problem=f"Deployment {namespace(one)}/{name(one)} is there, and no Istio should be",
            fix=("istioctl uninstall --purge" + cluster.kubectl.removeprefix("kubectl"),),
        )


def _releases(cluster: Cluster) -> dict[tuple[str, str], str]:
    """Namespace and name of each control plane that Helm installed, and what makes it whole."""
    found = {}
    for one in cluster.state.resources if cluster.state else ():
        if is_istiod_release(one):
            outputs = one["outputs"]
            revision = (outputs.get("values") or {}).get("revision")
            service = f"istiod-{revision}" if revision else "istiod"
            found[outputs["namespace"], service] = outputs["name"]
    for one in cluster.istiods:
        if helm := notes(one).get("meta.helm.sh/release-name"):
            found[namespace(one), name(one)] = helm
    return {key: _reapply(cluster, helm, key[0]) for key, helm in found.items()}


def _reapply(cluster: Cluster, helm: str, where: str) -> str:
    """Makes what a Helm release installed and somebody deleted, with no chart at hand."""
    reach = cluster.kubectl.removeprefix("kubectl").replace(" --context ", " --kube-context ")
    apply = cluster.command("apply", "--server-side", "--force-conflicts", "--filename", "-")
    return f"helm{reach} get manifest {helm} --namespace {where} | {apply}"


def _helms_objects(cluster: Cluster) -> Iterator[Finding]:
    namespaces = {name(one) for one in cluster.of("Namespace")}
    lost: dict[tuple[str, str], list[Part]] = defaultdict(list)
    for one in cluster.lost:
        # where the namespace is gone, so is the record that could be applied
        if one.home in namespaces:
            lost[one.home, one.release].append(one)
    for (where, helm), parts in lost.items():
        gone = (
            f"{one.kind.partition('.')[0]} {'/'.join(filter(None, (one.namespace, one.name)))}"
            for one in parts
        )
        # with a CRD went the objects of its kind, and those are Pulumi's
        crds = any(one.kind.startswith("CustomResourceDefinition") for one in parts)
        then = (_pulumi(cluster, "up", "--refresh"),) if crds else ()
        yield Finding(
            problem=f"Helm's release {helm} has lost {', '.join(gone)}; no update brings it back",
            fix=(_reapply(cluster, helm, where), *then),
        )


def _istiod_ready(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.istiods:
        wanted = one["spec"].get("replicas", 1)
        ready = one.get("status", {}).get("readyReplicas", 0)
        if ready < max(wanted, 1):
            available = condition(one, "Available")
            why = "it is scaled to 0" if wanted == 0 else _why(available)
            where = ("--namespace", namespace(one))
            first = (
                cluster.command(*where, "scale", f"deployment/{name(one)}", "--replicas=1")
                if wanted == 0
                else cluster.command(*where, "describe", "pods", "--selector=app=istiod")
            )
            yield Finding(
                problem=f"Deployment {namespace(one)}/{name(one)}: {ready} of {wanted} ready: "
                f"{why}",
                fix=(first,),
            )


def _orphaned(cluster: Cluster) -> Iterator[Finding]:
    services = {(namespace(one), name(one)) for one in cluster.of("Service")}
    whole = {} if cluster.wanted is Phase.ABSENT else _releases(cluster)
    for kind, configuration in _configurations(cluster):
        hooks = configuration.get("webhooks") or []
        dead = [
            at for at, one in enumerate(hooks) if (at_ := _service(one)) and at_ not in services
        ]
        # of others' only those count that stop what an update does
        blocking = [at for at in dead if hooks[at].get("failurePolicy", "Fail") == "Fail"]
        if not (dead if _is_istios(configuration) else blocking):
            continue
        asked = {service for at in dead if (service := _service(hooks[at]))}
        gone = sorted("/".join(service) for service in asked)
        # a webhook of a control plane that should be there is not to go, its Service is to come
        restored = [fix for service, fix in whole.items() if service in asked]
        stops = ", ".join(sorted({one for at in blocking for one in _stops(hooks[at])}))
        what = f"{kind} {name(configuration)}"
        yield Finding(
            problem=f"{what} asks Service {', '.join(gone)}, which does not exist"
            + (f": it refuses every change of {stops}" if stops else ""),
            fix=tuple(restored) or (_remove_webhooks(cluster, kind, configuration, dead),),
        )


def _remove_webhooks(cluster: Cluster, kind: str, configuration: Json, dead: list[int]) -> str:
    resource = kind.lower()
    if len(dead) == len(configuration["webhooks"]):
        return cluster.command("delete", resource, name(configuration))
    # from behind, because what follows a removed one moves up
    patch = [{"op": "remove", "path": f"/webhooks/{at}"} for at in reversed(dead)]
    words = ("patch", resource, name(configuration), "--type=json", "--patch", json.dumps(patch))
    return cluster.command(*words)


def _stops(hook: Json) -> Iterator[str]:
    for rule in hook.get("rules") or ():
        yield from rule.get("resources") or ()


def _webhooks_answer(cluster: Cluster) -> Iterator[Finding]:
    services = {(namespace(one), name(one)) for one in cluster.of("Service")}
    ready = {
        (namespace(one), labels(one).get("kubernetes.io/service-name"))
        for one in cluster.of("EndpointSlice")
        if any(end.get("conditions", {}).get("ready") for end in one.get("endpoints") or ())
    }
    silent: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, configuration in _configurations(cluster):
        for hook in configuration.get("webhooks") or ():
            asked = _service(hook)
            blocking = hook.get("failurePolicy", "Fail") == "Fail" or _is_istios(configuration)
            if asked and asked in services - ready and blocking:
                silent[asked].append(f"{kind} {name(configuration)}")
    for (where, service), asking in silent.items():
        which = ", ".join(dict.fromkeys(asking))
        yield Finding(
            problem=f"Service {where}/{service} has no endpoint that is ready, and {which} asks it",
            fix=(cluster.command("--namespace", where, "describe", f"service/{service}"),),
        )


def _ca_bundles(cluster: Cluster) -> Iterator[Finding]:
    roots = {
        namespace(one): blocks(one.get("data", {}).get("root-cert.pem", ""))
        for one in cluster.of("ConfigMap")
        if name(one) == _ROOT_CERT
    }
    for kind, configuration in _configurations(cluster):
        if not _is_istios(configuration):
            continue
        for hook in configuration.get("webhooks") or ():
            where, service = _service(hook) or ("", "")
            if where not in roots:
                continue
            bundle = hook.get("clientConfig", {}).get("caBundle", "")
            found = blocks(base64.b64decode(bundle).decode(errors="replace"))
            if found != roots[where]:
                what = "is not istiod's root certificate" if found else "is empty"
                yield Finding(
                    problem=f"caBundle of {kind} {name(configuration)} ({hook['name']}) {what}: "
                    "the API server will not believe istiod",
                    # istiod writes it when it starts
                    fix=(
                        cluster.command(
                            "--namespace", where, "rollout", "restart", f"deployment/{service}"
                        ),
                    ),
                )


def _configurations(cluster: Cluster) -> Iterator[tuple[str, Json]]:
    for kind in _WEBHOOKS:
        for one in cluster.of(kind):
            yield kind, one


def _service(hook: Json) -> tuple[str, str] | None:
    """Namespace and name of the Service that a webhook asks; None where it has a URL."""
    found = hook.get("clientConfig", {}).get("service")
    return (found["namespace"], found["name"]) if found else None


def _is_istios(configuration: Json) -> bool:
    hooks = configuration.get("webhooks") or ()
    return any(str(one["name"]).endswith("istio.io") for one in hooks)


# --- the data plane ------------------------------------------------------------------------------


def _two_labels(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.of("Namespace"):
        if {_INJECTION, _REVISION} <= labels(one).keys():
            yield Finding(
                problem=f"namespace {name(one)} has both {_INJECTION}={labels(one)[_INJECTION]} "
                f"and {_REVISION}={labels(one)[_REVISION]}: the second is not looked at",
                fix=(cluster.command("label", "namespace", name(one), f"{_REVISION}-"),),
            )


def _injector(cluster: Cluster) -> Iterator[Finding]:
    revisions = sorted(_istio_versions(cluster).values())
    for one, wants in _asking(cluster):
        if _meshed(cluster, one):
            continue
        # the default revision serves either label, another only its own
        to = [f"{_REVISION}-", f"{_INJECTION}=enabled"]
        if wants == _INJECTION and revisions:
            to = [f"{_INJECTION}-", f"{_REVISION}={revisions[0]}"]
        yield Finding(
            problem=f"namespace {name(one)} has {wants}={labels(one)[wants]}, and no injector "
            "serves it: its pods start without a sidecar",
            fix=(cluster.command("label", "namespace", name(one), *to),),
        )


def _labels_left(cluster: Cluster) -> Iterator[Finding]:
    for one, wants in _asking(cluster):
        off = [f"{key}-" for key in (_INJECTION, _REVISION) if key in labels(one)]
        yield Finding(
            problem=f"namespace {name(one)} has {wants}={labels(one)[wants]}, and there is no "
            "control plane that could inject",
            fix=(cluster.command("label", "namespace", name(one), *off),),
        )


def _asking(cluster: Cluster) -> Iterator[tuple[Json, str]]:
    """Namespaces that ask for sidecars, each with the label that counts."""
    for one in cluster.of("Namespace"):
        wants = next((key for key in (_INJECTION, _REVISION) if key in labels(one)), None)
        if wants and labels(one).get(_INJECTION, "enabled") == "enabled":
            yield one, wants


def _meshed(cluster: Cluster, item: Json) -> bool:
    """Whether an injector takes the pods of a namespace, if they say nothing else."""
    hooks = [
        hook
        for one in cluster.of("MutatingWebhookConfiguration")
        if _is_istios(one)
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
                fix=(_restart(cluster, pod),),
            )


def _proxies_ready(cluster: Cluster) -> Iterator[Finding]:
    for pod in _proxied(cluster):
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
    versions = _istio_versions(cluster)
    for pod in _proxied(cluster):
        have = release(tag((_proxy(pod) or {}).get("image", "")))
        if have and versions and have not in versions:
            yield Finding(
                problem=f"the proxy of pod {namespace(pod)}/{name(pod)} is {have}, istiod "
                f"{', '.join(sorted(versions))}",
                fix=(_restart(cluster, pod),),
            )


def _proxy_revisions(cluster: Cluster) -> Iterator[Finding]:
    revisions = {labels(one).get(_REVISION, "default") for one in cluster.istiods}
    for pod in _proxied(cluster):
        have = notes(pod).get(_REVISION)
        if have and have not in revisions:
            yield Finding(
                problem=f"the proxy of pod {namespace(pod)}/{name(pod)} belongs to revision {have}"
                f", which is gone; there is {', '.join(sorted(revisions)) or 'none'}",
                fix=(_restart(cluster, pod),),
            )


def _proxied(cluster: Cluster) -> Iterator[Json]:
    return (pod for pod in cluster.of("Pod") if _alive(pod) and _proxy(pod))


def _proxy(pod: Json) -> Json | None:
    containers = [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]
    return next((one for one in containers if one["name"] == _PROXY), None)


def _alive(pod: Json) -> bool:
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def _restart(cluster: Cluster, pod: Json) -> str:
    """Makes a pod anew, by what it belongs to."""
    where = ("--namespace", namespace(pod))
    owner = next(iter(pod["metadata"].get("ownerReferences") or ()), {"kind": "", "name": ""})
    kind, named = str(owner["kind"]), str(owner["name"])
    if kind == "ReplicaSet" and (made := labels(pod).get("pod-template-hash")):
        kind, named = "Deployment", named.removesuffix(f"-{made}")
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        return cluster.command(*where, "rollout", "restart", f"{kind.lower()}/{named}")
    return cluster.command(*where, "delete", "pod", name(pod))


# --- CRDs and certificates -----------------------------------------------------------------------


def _crds_there(cluster: Cluster) -> Iterator[Finding]:
    found = {name(one) for one in cluster.istio_crds}
    old = any((minor(version) or 0) < max(MIN_KUBERNETES) for version in _istio_versions(cluster))
    base = tuple(_reapply(cluster, "istio-base", namespace(one)) for one in cluster.istiods[:1])
    for one in CRDS[1:] if old else CRDS:
        if one not in found:
            yield Finding(
                problem=f"CRD {one} is missing: objects of that kind can be neither made nor read",
                fix=base,
            )


def _crds_served(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.istio_crds:
        established = condition(one, "Established")
        if established.get("status") != "True":
            yield Finding(
                problem=f"CRD {name(one)} is not established: {_why(established)}",
                fix=(cluster.command("describe", "crd", name(one)),),
            )


def _stored_versions(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.istio_crds:
        served = {version["name"] for version in one["spec"]["versions"]}
        lost = sorted(set(one.get("status", {}).get("storedVersions") or ()) - served)
        if lost:
            stored = next(v["name"] for v in one["spec"]["versions"] if v.get("storage"))
            patch = json.dumps({"status": {"storedVersions": [stored]}})
            words = ("patch", "crd", name(one), "--subresource=status", "--type=merge")
            yield Finding(
                problem=f"objects of CRD {name(one)} may be stored as {', '.join(lost)}, which it "
                "no longer has",
                fix=(cluster.command(*words, "--patch", patch),),
            )


def _root_certificates(cluster: Cluster) -> Iterator[Finding]:
    for where, left in _roots(cluster):
        if left <= timedelta():
            yield Finding(
                problem=f"Istio's root certificate in {where} ended {-left.days} days ago: every "
                "connection inside the mesh fails",
                fix=_new_root(cluster, where),
            )


def _root_certificates_soon(cluster: Cluster) -> Iterator[Finding]:
    for where, left in _roots(cluster):
        if timedelta() < left <= _SOON:
            yield Finding(
                problem=f"Istio's root certificate in {where} ends in {left.days} days",
                fix=_new_root(cluster, where),
            )


def _new_root(cluster: Cluster, where: str) -> tuple[str, ...]:
    # istiod makes a new one when it starts; one of your own is the Secret cacerts
    secret = ("delete", "secret", "istio-ca-secret", "--ignore-not-found")
    restart = ("rollout", "restart", "deployment", "--selector=app=istiod")
    return tuple(cluster.command("--namespace", where, *words) for words in (secret, restart))


def _roots(cluster: Cluster) -> Iterator[tuple[str, timedelta]]:
    """For each control plane its namespace, and how long its root certificate is good."""
    homes = {namespace(one) for one in cluster.istiods}
    for one in cluster.of("ConfigMap"):
        if name(one) == _ROOT_CERT and namespace(one) in homes:
            ends = [not_after(pem) for pem in blocks(one.get("data", {}).get("root-cert.pem", ""))]
            if ends:
                # of several the newest counts: the old ones stay while proxies still have them
                yield namespace(one), max(ends) - cluster.now


def _no_root(cluster: Cluster) -> str | None:
    return None if any(_roots(cluster)) else f"no ConfigMap {_ROOT_CERT} beside istiod"


# --- taking it down ------------------------------------------------------------------------------


def _terminating(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.of("Namespace"):
        if "deletionTimestamp" not in one["metadata"]:
            continue
        said = [
            condition(one, kind)
            for kind in (
                *("NamespaceDeletionDiscoveryFailure", "NamespaceDeletionContentFailure"),
                *("NamespaceContentRemaining", "NamespaceFinalizersRemaining"),
            )
        ]
        reasons = [str(c.get("message")) for c in said if c.get("status") == "True"]
        held = [item for item in (cluster.left or {}).get(name(one), ()) if finalizers(item)]
        names = [f"{item['kind']} {name(item)} ({', '.join(finalizers(item))})" for item in held]
        why = f"held by {', '.join(names)}" if held else " ".join(reasons) or "it has just begun"
        wait = cluster.command("wait", "--for=delete", f"namespace/{name(one)}", "--timeout=5m")
        yield Finding(
            problem=f"namespace {name(one)} is being deleted since "
            f"{one['metadata']['deletionTimestamp']}: {why}",
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
                f"while it does not: {_why(available)}",
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


def _sidecars_left(cluster: Cluster) -> Iterator[Finding]:
    for pod in _proxied(cluster):
        yield Finding(
            problem=f"pod {namespace(pod)}/{name(pod)} still has a proxy, and no control plane",
            fix=(_restart(cluster, pod),),
        )


# --- Pulumi --------------------------------------------------------------------------------------


def _still_wanted(cluster: Cluster) -> str | None:
    return "the control plane is to come back" if cluster.wanted is Phase.INSTALLED else None


def _no_state(cluster: Cluster) -> str | None:
    return None if cluster.state else "no --state was given (pulumi stack export)"


def _pending(cluster: Cluster) -> Iterator[Finding]:
    resources = cluster.state.resources if cluster.state else ()
    # an update deletes these itself, and what has replaced one has the same URN
    replaced = {one["urn"] for one in resources if one.get("delete")}
    for one in cluster.state.pending if cluster.state else ():
        urn = one["resource"]["urn"]
        if one["type"] == "deleting" and urn not in replaced:
            # to a refresh what is half deleted looks as if it were there
            fix = _pulumi(cluster, "destroy", "--refresh", "--target", urn)
        else:
            fix = _pulumi(cluster, "refresh", "--clear-pending-creates")
        yield Finding(problem=f"an update was interrupted while {one['type']} {urn}", fix=(fix,))


def _condemned(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.state.resources if cluster.state else ():
        if one.get("delete"):
            yield Finding(
                problem=f"{one['urn']} was replaced and is still to be deleted",
                fix=(_pulumi(cluster, "up"),),
            )


def _homeless(cluster: Cluster) -> Iterator[Finding]:
    there = {name(one) for one in cluster.of("Namespace")}
    lost: dict[str, list[str]] = defaultdict(list)
    for one in cluster.state.resources if cluster.state else ():
        kind, found = str(one["type"]), str(one.get("id", ""))
        where = found if kind == "kubernetes:core/v1:Namespace" else found.rpartition("/")[0]
        if kind.startswith("kubernetes:") and where and where not in there:
            lost[where].append(one["urn"])
    for where, urns in lost.items():
        yield Finding(
            problem=f"namespace {where} is gone, and {len(urns)} resources in the state are in it",
            fix=(_pulumi(cluster, "refresh"),),
        )


def _pulumi(cluster: Cluster, *words: str) -> str:
    stack = cluster.state.stack if cluster.state else ""
    return shlex.join(("pulumi", *words, *(("--stack", stack) if stack else ())))


def _why(found: Json) -> str:
    return str(found.get("message") or found.get("reason") or "nobody says why").strip()


# --- the table -----------------------------------------------------------------------------------

_ABSENT, _INSTALLED = (Phase.ABSENT,), (Phase.INSTALLED,)
_WARNING = Severity.WARNING

_CLUSTER, _RIGHTS, _CONTROL = "kubernetes", "rights", "control plane"
_DATA, _CRDS, _CERTIFICATES = "data plane", "CRDs", "certificates"
_TEARDOWN, _LEFTOVERS, _PULUMI = "tear-down", "leftovers", "pulumi"

CHECKS = (
    Check(
        id="kubernetes-version",
        category=_CLUSTER,
        claim="Istio runs on this version of Kubernetes",
        run=_kubernetes,
        skip=_no_istio_version,
    ),
    Check(
        id="kubectl-version",
        category=_CLUSTER,
        claim="kubectl is at most one minor version away",
        run=_kubectl,
        severity=_WARNING,
    ),
    Check(
        id="nodes-ready",
        category=_CLUSTER,
        claim="every node is ready",
        run=_nodes_ready,
        severity=_WARNING,
        needs=("Node",),
    ),
    Check(
        id="kubelet-version",
        category=_CLUSTER,
        claim="kubelets are as new as the API server allows",
        run=_kubelets,
        severity=_WARNING,
        needs=("Node",),
    ),
    Check(
        id="native-sidecars",
        category=_CLUSTER,
        claim="every node can run native sidecars",
        run=_native_sidecars,
        severity=_WARNING,
        needs=("Node",),
    ),
    Check(
        id="may-read",
        category=_RIGHTS,
        claim="you may list what is checked",
        run=_readable,
        severity=_WARNING,
    ),
    Check(
        id="may-change",
        category=_RIGHTS,
        claim="you may create, patch and delete what an update does",
        run=_rights,
    ),
    Check(
        id="as-expected",
        category=_CONTROL,
        claim="istiod is there, or not, as it should be",
        run=_expected,
        needs=("Deployment",),
        skip=lambda cluster: (
            None if cluster.wanted else "neither --expect nor --state says what should be there"
        ),
    ),
    Check(
        id="helm-objects",
        category=_CONTROL,
        claim="what Helm made is there",
        run=_helms_objects,
        needs=("Namespace",),
        skip=_no_state,
    ),
    Check(
        id="istiod-ready",
        category=_CONTROL,
        claim="istiod is ready",
        run=_istiod_ready,
        phases=_INSTALLED,
    ),
    Check(
        id="webhooks-orphaned",
        category=_CONTROL,
        claim="every webhook asks a Service that exists",
        run=_orphaned,
        needs=(*_WEBHOOKS, "Service"),
    ),
    Check(
        id="webhooks-answer",
        category=_CONTROL,
        claim="every webhook's Service has an endpoint that is ready",
        run=_webhooks_answer,
        needs=(*_WEBHOOKS, "Service", "EndpointSlice"),
    ),
    Check(
        id="webhooks-ca",
        category=_CONTROL,
        claim="webhooks know istiod's root certificate",
        run=_ca_bundles,
        needs=(*_WEBHOOKS, "ConfigMap"),
        phases=_INSTALLED,
    ),
    Check(
        id="injection-labels",
        category=_DATA,
        claim="no namespace has two injection labels",
        run=_two_labels,
        severity=_WARNING,
        needs=("Namespace",),
    ),
    Check(
        id="injector",
        category=_DATA,
        claim="every namespace that asks for sidecars has an injector",
        run=_injector,
        needs=("Namespace", "MutatingWebhookConfiguration"),
        phases=_INSTALLED,
    ),
    Check(
        id="sidecars",
        category=_DATA,
        claim="every pod in the mesh has a sidecar",
        run=_without_sidecar,
        severity=_WARNING,
        needs=("Namespace", "Pod", "MutatingWebhookConfiguration"),
        phases=_INSTALLED,
    ),
    Check(
        id="proxies-ready",
        category=_DATA,
        claim="every proxy is ready",
        run=_proxies_ready,
        severity=_WARNING,
        needs=("Pod",),
        phases=_INSTALLED,
    ),
    Check(
        id="proxies-version",
        category=_DATA,
        claim="every proxy has istiod's version",
        run=_proxy_versions,
        severity=_WARNING,
        needs=("Pod",),
        phases=_INSTALLED,
    ),
    Check(
        id="proxies-revision",
        category=_DATA,
        claim="every proxy's revision is there",
        run=_proxy_revisions,
        needs=("Pod",),
        phases=_INSTALLED,
    ),
    Check(
        id="crds-installed",
        category=_CRDS,
        claim="Istio's CRDs are installed",
        run=_crds_there,
        needs=("CustomResourceDefinition",),
        phases=_INSTALLED,
    ),
    Check(
        id="crds-established",
        category=_CRDS,
        claim="Istio's CRDs are established",
        run=_crds_served,
        needs=("CustomResourceDefinition",),
    ),
    Check(
        id="crds-stored",
        category=_CRDS,
        claim="Istio's CRDs have every version that is stored",
        run=_stored_versions,
        severity=_WARNING,
        needs=("CustomResourceDefinition",),
    ),
    Check(
        id="root-valid",
        category=_CERTIFICATES,
        claim="Istio's root certificate is valid",
        run=_root_certificates,
        needs=("ConfigMap",),
        phases=_INSTALLED,
        skip=_no_root,
    ),
    Check(
        id="root-lasts",
        category=_CERTIFICATES,
        claim=f"Istio's root certificate is valid for {_SOON.days} days more",
        run=_root_certificates_soon,
        severity=_WARNING,
        needs=("ConfigMap",),
        phases=_INSTALLED,
        skip=_no_root,
    ),
    Check(
        id="namespaces-terminating",
        category=_TEARDOWN,
        claim="no namespace is stuck while it is deleted",
        run=_terminating,
        needs=("Namespace",),
    ),
    Check(
        id="apiservices",
        category=_TEARDOWN,
        claim="every APIService answers",
        run=_api_services,
        severity=_WARNING,
        needs=("APIService",),
    ),
    Check(
        id="finalizers",
        category=_TEARDOWN,
        claim="no object of Istio's kinds has a finalizer",
        run=_finalizers,
        severity=_WARNING,
        needs=("CustomResourceDefinition",),
    ),
    Check(
        id="left-namespaces",
        category=_LEFTOVERS,
        claim="no namespace of the stack is left",
        run=_own_namespaces,
        severity=_WARNING,
        needs=("Namespace",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-volumes",
        category=_LEFTOVERS,
        claim="no volume of the stack is left",
        run=_volumes,
        severity=_WARNING,
        needs=("Namespace", "PersistentVolumeClaim"),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-configmaps",
        category=_LEFTOVERS,
        claim="no ConfigMap of istiod's is left",
        run=_config_maps,
        severity=_WARNING,
        needs=("ConfigMap",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-roles",
        category=_LEFTOVERS,
        claim="no ClusterRole or binding of Istio's is left",
        run=_cluster_roles,
        severity=_WARNING,
        needs=("ClusterRole", "ClusterRoleBinding"),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-labels",
        category=_LEFTOVERS,
        claim="no namespace asks for sidecars",
        run=_labels_left,
        severity=_WARNING,
        needs=("Namespace",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-sidecars",
        category=_LEFTOVERS,
        claim="no pod has a proxy",
        run=_sidecars_left,
        severity=_WARNING,
        needs=("Pod",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="left-crds",
        category=_LEFTOVERS,
        claim="no CRD of Istio's is left",
        run=_crds_left,
        severity=_WARNING,
        needs=("CustomResourceDefinition",),
        phases=_ABSENT,
        skip=_still_wanted,
    ),
    Check(
        id="state-pending",
        category=_PULUMI,
        claim="no update was interrupted",
        run=_pending,
        skip=_no_state,
    ),
    Check(
        id="state-condemned",
        category=_PULUMI,
        claim="nothing replaced is still to be deleted",
        run=_condemned,
        severity=_WARNING,
        skip=_no_state,
    ),
    Check(
        id="state-namespaces",
        category=_PULUMI,
        claim="every namespace in the state exists",
        run=_homeless,
        needs=("Namespace",),
        skip=_no_state,
    ),
)
"""Every check, in the order of the report."""
