"""The rules, as functions over resources: they need neither Pulumi nor a cluster.

They see what Pulumi declares. What a Helm release installs, istiod and the gateways' pods, is
hidden behind its values; those objects are for `make preview` to show.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]
"""JSON, as Kubernetes writes it."""

Resources = Sequence["Resource"]

_REASON = "service-mesh/reason"
_EXPIRES = "service-mesh/expires"
_INJECT = "sidecar.istio.io/inject"
_ROOT_NAMESPACE = "istio-system"
"""Where a PeerAuthentication counts for the whole mesh."""

_WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"})
"""Kinds with `spec.template`. A CronJob's is deeper, and a Pod is one."""

_FEWEST_REPLICAS = 2

_LOG_LEVELS = (
    "sidecar.istio.io/logLevel",
    "sidecar.istio.io/componentLogLevel",
    "sidecar.istio.io/agentLogLevel",
)
"""Annotations of a pod: how much its proxy, the proxy's parts and pilot-agent write."""

_DEBUG_LEVELS = frozenset({"debug", "trace"})

_TRUE, _FALSE = frozenset({"true", "t", "1"}), frozenset({"false", "f", "0"})
"""Go's words, in small letters."""

_OPEN_DOORS = {
    "UNSAFE_ENABLE_ADMIN_ENDPOINTS": _TRUE,
    "UNSAFE_PILOT_ENABLE_RUNTIME_ASSERTIONS": _TRUE,
    "ENABLE_DEBUG_ENDPOINT_AUTH": _FALSE,
}
"""Variables of istiod, and what opens a door (Istio's pilot/pkg/features/pilot.go)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A resource, as a policy pack sees it."""

    type: str
    """Pulumi's token, e.g. `kubernetes:apps/v1:Deployment`."""

    name: str
    """Its name in Pulumi."""

    urn: str
    """Who it is, for Pulumi's own report."""

    props: Object
    """Its inputs; after all are known, its outputs. A value may raise where it is not known."""

    protect: bool = False
    """Whether Pulumi refuses to delete it."""

    @property
    def kind(self) -> str:
        """The last part of its type."""
        return self.type.rpartition(":")[2] if self.type.startswith("kubernetes:") else ""

    def istio(self, kind: str) -> bool:
        """Whether it is an Istio object of that kind, of any version of the API."""
        return self.kind == kind and ".istio.io/" in self.type

    @property
    def metadata(self) -> Object:
        """Kubernetes' own."""
        return _object(self.props.get("metadata"))

    @property
    def spec(self) -> Object:
        """What is wanted."""
        return _object(self.props.get("spec"))

    @property
    def namespace(self) -> str:
        """Where it is, or would be without a word."""
        return str(self.metadata.get("namespace") or "default")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a rule has against a resource."""

    urn: str | None
    """Which; None: it is about the stack."""

    message: str
    """What is wrong and what is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One guard rail."""

    name: str
    """Its id."""

    says: str
    """What must hold."""

    check: Callable[[Resources], Iterator[Finding]] = field(repr=False)
    """Finds what does not."""

    whole_stack: bool = False
    """Whether it must see all resources at once; else it refuses each before it is made."""


# the mesh


def exceptions_say_why(
    resources: Resources, today: datetime.date | None = None
) -> Iterator[Finding]:
    """A PeerAuthentication that takes plaintext says why and until when, and that day is not past.

    Args:
        resources: What is declared.
        today: The day in UTC; None: this one.
    """
    now = today or datetime.datetime.now(datetime.UTC).date()
    for one in resources:
        if not one.istio("PeerAuthentication"):
            continue
        modes = [_object(one.spec.get("mtls")), *_object(one.spec.get("portLevelMtls")).values()]
        weak = sorted({str(each.get("mode")) for each in modes} & {"PERMISSIVE", "DISABLE"})
        if not weak:
            continue
        notes = _object(one.metadata.get("annotations"))
        mode = " and ".join(weak)
        if not str(notes.get(_REASON) or "").strip():
            yield _of(one, f"{mode} without the annotation {_REASON}")
        expires = str(notes.get(_EXPIRES) or "")
        try:
            until = datetime.date.fromisoformat(expires)
        except ValueError:
            yield _of(one, f"{mode} without a date (YYYY-MM-DD) in the annotation {_EXPIRES}")
        else:
            if until < now:
                yield _of(one, f"{mode} was for the time until {until}, which is past")


def namespaces_are_strict(resources: Resources) -> Iterator[Finding]:
    """Over every namespace with injection stands a policy that says STRICT, its own or the mesh's.

    Without one there is Istio's default, which takes plaintext. One that says why it is not STRICT
    is left to `exceptions_say_why`.
    """
    modes: dict[str, str] = {}
    for one in resources:
        if one.istio("PeerAuthentication") and not one.spec.get("selector"):
            mode = str(_object(one.spec.get("mtls")).get("mode") or "UNSET")
            if mode != "UNSET":
                excused = _REASON in _object(one.metadata.get("annotations"))
                modes[one.namespace] = "excused" if excused else mode
    for one in resources:
        if _injects(one):
            name = str(one.metadata.get("name"))
            mode = modes.get(name) or modes.get(_ROOT_NAMESPACE) or "no PeerAuthentication"
            if mode not in {"STRICT", "excused"}:
                yield _of(one, f"pods of {name} get a sidecar, and over them stands {mode}")


def clients_use_mutual_tls(resources: Resources) -> Iterator[Finding]:
    """No DestinationRule for a host inside the mesh has another TLS than ISTIO_MUTUAL.

    Outside is what a ServiceEntry says is outside, unless its name is one of the cluster's.
    """
    outside = [
        str(host)
        for one in resources
        if one.istio("ServiceEntry") and one.spec.get("location") != "MESH_INTERNAL"
        for host in one.spec.get("hosts") or ()
    ]
    for one in resources:
        if not one.istio("DestinationRule"):
            continue
        host = str(one.spec.get("host"))
        if _outside(host, outside):
            continue
        subsets = [_object(subset) for subset in one.spec.get("subsets") or ()]
        for each in (one.spec, *subsets):
            policy = _object(each.get("trafficPolicy"))
            ports = [_object(port) for port in policy.get("portLevelSettings") or ()]
            for tls in (_object(level.get("tls")) for level in (policy, *ports)):
                mode = tls.get("mode") or "DISABLE"
                if tls and mode != "ISTIO_MUTUAL":
                    yield _of(one, f"TLS {mode} to {host}, which no ServiceEntry says is outside")


def workloads_are_injected(resources: Resources) -> Iterator[Finding]:
    """Every workload is in a namespace with injection, or says in its labels that it wants none.

    The latter goes for namespaces without injection only: observers, not the mesh's own pods.
    """
    injecting = {one.metadata.get("name") for one in resources if _injects(one)}
    for one in resources:
        template = _template(one)
        if template is None:
            continue
        labels = _object(_object(template.get("metadata")).get("labels"))
        refuses = labels.get(_INJECT) == "false"
        if one.namespace in injecting and refuses:
            yield _of(one, f"in the mesh namespace {one.namespace}, and {_INJECT} is false")
        elif one.namespace not in injecting and not refuses:
            yield _of(
                one,
                f"{one.namespace} is no namespace of the stack with istio-injection: enabled, "
                f"and the pods do not say {_INJECT}: false",
            )


def gateways_are_ours(resources: Resources) -> Iterator[Finding]:
    """Every Gateway selects the pods of a gateway that this stack installs.

    With other labels, or none, it opens ports in proxies that are somebody else's.
    """
    ours = [
        labels
        for one in resources
        if _chart(one) == "gateway"
        and (labels := _object(_object(one.props.get("values")).get("labels")))
    ]
    for one in resources:
        if one.istio("Gateway"):
            selector = _object(one.spec.get("selector"))
            if not any(labels.items() <= selector.items() for labels in ours):
                known = ", ".join(_pairs(labels) for labels in ours) or "none"
                wanted = _pairs(selector) or "every gateway"
                yield _of(one, f"selects {wanted}; gateways of the stack: {known}")


# pods


def images_are_named(resources: Resources) -> Iterator[Finding]:
    """Every image has a digest, or a tag that is not `latest`."""
    for one, container in _containers(resources):
        image = str(container.get("image") or "")
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in {"", "latest"}:
            yield _of(one, f"container {container.get('name')}: image {image or 'missing'}")


def resources_are_said(resources: Resources) -> Iterator[Finding]:
    """Every container says its CPU and memory, and the memory above which it is killed.

    No limit on CPU is asked for: it would slow down starts and protect nobody.
    """
    for one, container in _containers(resources):
        said = _object(container.get("resources"))
        missing = [
            f"{part}.{name}"
            for part, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory"))
            if not _object(said.get(part)).get(name)
        ]
        if missing:
            yield _of(one, f"container {container.get('name')} has no {', '.join(missing)}")


def pods_are_restricted(resources: Resources) -> Iterator[Finding]:
    """Pods keep to Pod Security's "restricted", as far as it is about rights.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    for one in resources:
        pod = _pod(one)
        shared = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
        volumes = [_object(volume) for volume in pod.get("volumes") or ()]
        shared += [f"hostPath {each.get('name')}" for each in volumes if "hostPath" in each]
        if shared:
            yield _of(one, f"shares with its node: {', '.join(shared)}")
    for one, container in _containers(resources):
        missing = list(_unrestricted(_object(_pod(one).get("securityContext")), container))
        if missing:
            yield _of(one, f"container {container.get('name')}: {', '.join(missing)}")


def _unrestricted(pod: Object, container: Object) -> Iterator[str]:
    own = _object(container.get("securityContext"))
    capabilities = _object(own.get("capabilities"))
    seccomp = _object(own.get("seccompProfile") or pod.get("seccompProfile"))
    if own.get("privileged"):
        yield "privileged is true"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runAsUser is 0"
    if "ALL" not in (capabilities.get("drop") or ()):
        yield "capabilities.drop has no ALL"
    if added := set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"capabilities.add has {', '.join(sorted(map(str, added)))}"
    if seccomp.get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccompProfile is not RuntimeDefault"


# production


def is_production(resources: Resources) -> bool:
    """Whether the stack says so in its outputs: a pack does not see the stack's settings."""
    return any(
        one.type == "pulumi:pulumi:Stack" and one.props.get("production") is True
        for one in resources
    )


def nothing_fails_on_purpose(resources: Resources) -> Iterator[Finding]:
    """No VirtualService of a production stack has a fault."""
    for one in resources if is_production(resources) else ():
        if one.istio("VirtualService"):
            routes = [_object(route) for route in one.spec.get("http") or ()]
            if any(route.get("fault") for route in routes):
                yield _of(one, "a fault in a production stack")


def nothing_is_debugged(resources: Resources) -> Iterator[Finding]:
    """No proxy, agent or istiod of a production stack logs at debug or opens a door for debugging.

    At that level proxies write the headers of requests, tokens among them. Access logs are no
    debugging, and neither are traces.
    """
    for one in resources if is_production(resources) else ():
        for key, level in _log_levels(one):
            if _DEBUG_LEVELS & set(re.split(r"[:,\s]+", str(level).lower())):
                yield _of(one, f"{key} is {level} in production")
        for key, value in _istiod_env(one):
            if str(value).lower() in _OPEN_DOORS.get(key, ()):
                yield _of(one, f"{key} is {value} in production")


def _log_levels(one: Resource) -> Iterator[tuple[str, object]]:
    """What is said about logs in the annotations of pods and the values of Istio's charts."""
    values = _values(one)
    notes = _object(_object((_template(one) or {}).get("metadata")).get("annotations"))
    for said in (notes, _object(values.get("podAnnotations"))):
        yield from ((key, said.get(key)) for key in _LOG_LEVELS)
    shared = _object(values.get("global"))
    proxy = _object(shared.get("proxy"))
    yield "global.logging.level", _object(shared.get("logging")).get("level")
    yield "global.proxy.logLevel", proxy.get("logLevel")
    yield "global.proxy.componentLogLevel", proxy.get("componentLogLevel")


def _istiod_env(one: Resource) -> Iterator[tuple[str, object]]:
    """Variables in the values of chart `istiod`, which takes them under `pilot` and beside it."""
    values = _values(one)
    for said in (values, _object(values.get("pilot"))):
        yield from _object(said.get("env")).items()


def nobody_is_alone(resources: Resources) -> Iterator[Finding]:
    """A Deployment of the mesh has at least two replicas in production.

    What shows the mesh may be away for a minute: pods that say they want no sidecar.
    """
    for one in resources if is_production(resources) else ():
        if one.kind != "Deployment":
            continue
        labels = _object(_object(_object(one.spec.get("template")).get("metadata")).get("labels"))
        replicas = one.spec.get("replicas", 1)
        if labels.get(_INJECT) != "false" and replicas < _FEWEST_REPLICAS:
            # numbers come as floats
            yield _of(one, f"{replicas:.0f} replica of {_FEWEST_REPLICAS} or more in production")


def crds_stay(resources: Resources) -> Iterator[Finding]:
    """Nothing rewrites the chart of the CRDs in production: as published it keeps them."""
    for one in resources if is_production(resources) else ():
        if _chart(one) == "base" and (rewriter := one.props.get("postrender")):
            yield _of(one, f"{rewriter} rewrites the CRDs' chart: with keepCrds true nothing does")


def what_must_stay_is_protected(resources: Resources) -> Iterator[Finding]:
    """Namespaces and the release with the CRDs cannot be deleted by a production stack.

    With them goes all that is in them, or is made of them.
    """
    for one in resources if is_production(resources) else ():
        if (one.kind == "Namespace" or _chart(one) == "base") and not one.protect:
            yield _of(one, "not protected in a production stack")


RULES: tuple[Rule, ...] = (
    Rule(
        name="exceptions-say-why",
        says="What takes plaintext says why, and until when.",
        check=exceptions_say_why,
    ),
    Rule(
        name="namespaces-are-strict",
        says="Every namespace of the mesh takes mutual TLS only.",
        check=namespaces_are_strict,
        whole_stack=True,
    ),
    Rule(
        name="clients-use-mutual-tls",
        says="No DestinationRule turns mutual TLS off inside the mesh.",
        check=clients_use_mutual_tls,
        whole_stack=True,
    ),
    Rule(
        name="workloads-are-injected",
        says="Workloads are in namespaces whose pods get a sidecar.",
        check=workloads_are_injected,
        whole_stack=True,
    ),
    Rule(
        name="gateways-are-ours",
        says="A Gateway opens ports in this stack's gateways only.",
        check=gateways_are_ours,
        whole_stack=True,
    ),
    Rule(
        name="images-are-named",
        says="Images have a tag that is not latest, or a digest.",
        check=images_are_named,
    ),
    Rule(
        name="resources-are-said",
        says="Containers request CPU and memory, and have a limit on memory.",
        check=resources_are_said,
    ),
    Rule(
        name="pods-are-restricted",
        says="Pods have no rights that they do not need.",
        check=pods_are_restricted,
    ),
    Rule(
        name="production-without-faults",
        says="In production nothing fails on purpose.",
        check=nothing_fails_on_purpose,
        whole_stack=True,
    ),
    Rule(
        name="production-without-debug",
        says="In production nothing logs at debug, and istiod's doors for debugging are shut.",
        check=nothing_is_debugged,
        whole_stack=True,
    ),
    Rule(
        name="production-has-replicas",
        says="In production no pod of the mesh is alone.",
        check=nobody_is_alone,
        whole_stack=True,
    ),
    Rule(
        name="production-keeps-crds",
        says="In production Istio's CRDs outlive the stack.",
        check=crds_stay,
        whole_stack=True,
    ),
    Rule(
        name="production-is-protected",
        says="In production namespaces and CRDs are protected.",
        check=what_must_stay_is_protected,
        whole_stack=True,
    ),
)
"""All of them mandatory."""


# what objects say


def _object(value: object) -> Object:
    """A JSON object; empty where there is none."""
    return value if isinstance(value, Mapping) else {}


def _of(one: Resource, message: str) -> Finding:
    where = f"{one.namespace}/" if one.metadata.get("namespace") else ""
    name = one.metadata.get("name") or one.name
    return Finding(urn=one.urn, message=f"{one.kind} {where}{name}: {message}")


def _pairs(labels: Object) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _chart(one: Resource) -> str:
    """The chart's name, of a release only; a folder's is its last part."""
    if not one.type.startswith("kubernetes:helm.sh/") or one.kind != "Release":
        return ""
    return str(one.props.get("chart") or "").rstrip("/").rpartition("/")[2]


def _values(one: Resource) -> Object:
    """What a release gives to its chart; empty for anything else."""
    return _object(one.props.get("values")) if _chart(one) else {}


def _injects(one: Resource) -> bool:
    """Whether it is a namespace whose pods get a sidecar."""
    if one.kind not in {"Namespace", "NamespacePatch"}:
        return False
    labels = _object(one.metadata.get("labels"))
    # istiod obeys istio-injection where both labels are there
    said = labels.get("istio-injection")
    return said == "enabled" if said else bool(labels.get("istio.io/rev"))


def _outside(host: str, outside: Sequence[str]) -> bool:
    """Whether a host is one of those outside the mesh; a name of the cluster never is."""
    inside = "." not in host or ".svc." in f"{host}." or host.endswith(".local")
    return not inside and any(
        host == each or (each.startswith("*.") and host.endswith(each[1:])) for each in outside
    )


def _template(one: Resource) -> Object | None:
    """The pods of a workload; None for anything else."""
    if one.kind in _WORKLOADS:
        return _object(one.spec.get("template"))
    if one.kind == "CronJob":
        job = _object(_object(one.spec.get("jobTemplate")).get("spec"))
        return _object(job.get("template"))
    return one.props if one.kind == "Pod" else None


def _pod(one: Resource) -> Object:
    return _object((_template(one) or {}).get("spec"))


def _containers(resources: Resources) -> Iterator[tuple[Resource, Object]]:
    for one in resources:
        pod = _pod(one)
        for key in ("initContainers", "containers"):
            for container in pod.get(key) or ():
                yield one, _object(container)
