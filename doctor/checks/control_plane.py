"""istiod, what Helm made for it, and who asks it."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterator

from doctor.certificate import blocks
from doctor.checks.state import no_state
from doctor.model import (
    ROOT_CONFIG_MAP,
    Check,
    Cluster,
    Finding,
    Json,
    Part,
    Phase,
    condition,
    is_istiod_release,
    is_istios,
    labels,
    name,
    namespace,
    notes,
    why,
)

_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_INSTALLED = (Phase.INSTALLED,)


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
    return {key: cluster.reapply(helm, key[0]) for key, helm in found.items()}


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
        then = (cluster.pulumi("up", "--refresh"),) if crds else ()
        yield Finding(
            problem=f"Helm's release {helm} has lost {', '.join(gone)}; no update brings it back",
            fix=(cluster.reapply(helm, where), *then),
        )


def _istiod_ready(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.istiods:
        wanted = one["spec"].get("replicas", 1)
        ready = one.get("status", {}).get("readyReplicas", 0)
        if ready < max(wanted, 1):
            because = "it is scaled to 0" if wanted == 0 else why(condition(one, "Available"))
            where = ("--namespace", namespace(one))
            first = (
                cluster.command(*where, "scale", f"deployment/{name(one)}", "--replicas=1")
                if wanted == 0
                else cluster.command(*where, "describe", "pods", "--selector=app=istiod")
            )
            yield Finding(
                problem=f"Deployment {namespace(one)}/{name(one)}: {ready} of {wanted} ready: "
                f"{because}",
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
        if not (dead if is_istios(configuration) else blocking):
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
            blocking = hook.get("failurePolicy", "Fail") == "Fail" or is_istios(configuration)
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
        if name(one) == ROOT_CONFIG_MAP
    }
    for kind, configuration in _configurations(cluster):
        if not is_istios(configuration):
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


CHECKS = (
    Check(
        id="as-expected",
        category="control plane",
        claim="istiod is there, or not, as it should be",
        run=_expected,
        needs=("Deployment",),
        skip=lambda cluster: (
            None if cluster.wanted else "neither --expect nor --state says what should be there"
        ),
    ),
    Check(
        id="helm-objects",
        category="control plane",
        claim="what Helm made is there",
        run=_helms_objects,
        needs=("Namespace",),
        skip=no_state,
    ),
    Check(
        id="istiod-ready",
        category="control plane",
        claim="istiod is ready",
        run=_istiod_ready,
        phases=_INSTALLED,
    ),
    Check(
        id="webhooks-orphaned",
        category="control plane",
        claim="every webhook asks a Service that exists",
        run=_orphaned,
        needs=(*_WEBHOOKS, "Service"),
    ),
    Check(
        id="webhooks-answer",
        category="control plane",
        claim="every webhook's Service has an endpoint that is ready",
        run=_webhooks_answer,
        needs=(*_WEBHOOKS, "Service", "EndpointSlice"),
    ),
    Check(
        id="webhooks-ca",
        category="control plane",
        claim="webhooks know istiod's root certificate",
        run=_ca_bundles,
        needs=(*_WEBHOOKS, "ConfigMap"),
        phases=_INSTALLED,
    ),
)
