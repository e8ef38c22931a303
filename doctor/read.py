"""Asking a cluster, with kubectl."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doctor.model import BadInputError, Cluster, Json, Part, Right, State, condition, name

Run = Callable[[Sequence[str], str | None], "subprocess.CompletedProcess[str]"]
"""Runs a command with this on its standard input."""

_TIMEOUT_S = 120
_ASK_S = "10s"
"""For one answer of the API server; kubectl itself would wait for ever."""

CONTROL_PLANE = "istio-system"

KINDS = {
    "Node": "nodes",
    "Namespace": "namespaces",
    "Pod": "pods",
    "Service": "services",
    "EndpointSlice": "endpointslices.discovery.k8s.io",
    "Deployment": "deployments.apps",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "ValidatingWebhookConfiguration": (
        "validatingwebhookconfigurations.admissionregistration.k8s.io"
    ),
    "APIService": "apiservices.apiregistration.k8s.io",
    "CustomResourceDefinition": "customresourcedefinitions.apiextensions.k8s.io",
    "ClusterRole": "clusterroles.rbac.authorization.k8s.io",
    "ClusterRoleBinding": "clusterrolebindings.rbac.authorization.k8s.io",
}
"""What is listed, and its name in kubectl's words: no secret, and no ConfigMap but istiod's own."""

_CONFIG_MAPS = {"ConfigMap": "configmaps"}

_CLUSTER_WIDE = (
    "namespaces",
    KINDS["CustomResourceDefinition"],
    KINDS["ClusterRole"],
    KINDS["ClusterRoleBinding"],
    KINDS["MutatingWebhookConfiguration"],
    KINDS["ValidatingWebhookConfiguration"],
)
_NAMESPACED = (
    *("configmaps", "secrets", "serviceaccounts", "services", "deployments.apps"),
    *("roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io"),
    *("horizontalpodautoscalers.autoscaling", "poddisruptionbudgets.policy"),
    *("networkpolicies.networking.k8s.io", "gateways.networking.istio.io"),
    *("virtualservices.networking.istio.io", "destinationrules.networking.istio.io"),
    *("serviceentries.networking.istio.io", "peerauthentications.security.istio.io"),
    *("authorizationpolicies.security.istio.io", "telemetries.telemetry.istio.io"),
)
_VERBS = ("create", "patch", "delete")

_REFUSED = re.compile(r'cannot list resource "(\S+)" in API group "(\S*)"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Which cluster, and where in it a stack puts things."""

    context: str | None = None
    kubeconfig: str | None = None
    namespaces: tuple[str, ...] = ("bookinfo",)
    """Where an update puts things, beside the control plane's."""

    @property
    def kubectl(self) -> list[str]:
        """kubectl, led to the cluster."""
        given = {"--context": self.context, "--kubeconfig": self.kubeconfig}
        return ["kubectl", *(word for flag, v in given.items() if v for word in (flag, v))]


@dataclass(kw_only=True)
class _Asked:
    kubectl: Sequence[str]
    run: Run
    unread: dict[str, str] = field(default_factory=dict)

    def call(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.run([*self.kubectl, f"--request-timeout={_ASK_S}", *words], stdin)

    def every(
        self,
        kinds: Mapping[str, str],
        *words: str,
        named: Callable[[Json], str] = lambda item: str(item["kind"]),
    ) -> dict[str, list[Json]]:
        """All objects of some kinds; what may not be listed is remembered."""
        done = self.call("get", ",".join(kinds.values()), "-A", "--output=json", *words)
        refused = set(_REFUSED.findall(done.stderr))
        if done.returncode and not refused:
            raise BadInputError(f"kubectl get: {_reason(done)}")
        for kind, resource in kinds.items():
            plural, _, group = resource.partition(".")
            if (plural, group) in refused:
                self.unread[kind] = resource
        found: dict[str, list[Json]] = {kind: [] for kind in kinds}
        for document in _documents(done.stdout, "kubectl get"):
            for item in document.get("items") or ():
                found[named(item)].append(item)
        return found


def read(question: Question, run: Run | None = None, state: State | None = None) -> Cluster:
    """Ask the cluster, also for what a state says that Helm made in it.

    Raises:
        BadInputError: kubectl is missing, or the cluster does not answer.
    """
    asked = _Asked(kubectl=question.kubectl, run=run or _run)
    version = asked.call("version", "--output=json")
    said = next(_documents(version.stdout, "kubectl version"), {}) if version.stdout else {}
    if "serverVersion" not in said:
        raise BadInputError(f"the cluster does not answer: {_reason(version)}")
    objects = asked.every(KINDS)
    objects |= asked.every(_CONFIG_MAPS, "--selector=istio.io/config=true")
    cluster = Cluster(
        kubectl=shlex.join(question.kubectl),
        client=said["clientVersion"]["gitVersion"],
        server=said["serverVersion"]["gitVersion"],
        objects=objects,
        now=datetime.now(UTC),
        unread=asked.unread,
    )
    if crds := {_kind_of(crd): name(crd) for crd in cluster.istio_crds if _served(crd)}:
        kinds = {one: one for one in crds.values()}
        objects |= asked.every(kinds, named=lambda item: crds[_kind(item)])
    user, denied = _rights(asked, (CONTROL_PLANE, *question.namespaces))
    left = {name(one): _left(asked, one) for one in cluster.of("Namespace") if _going(one)}
    lost = tuple(_lost(asked, state.parts)) if state else ()
    return replace(cluster, user=user, denied=denied, left=left, lost=lost, state=state)


def read_state(file: str, stdin: Callable[[], str]) -> State:
    """What `pulumi stack export` wrote into a file, or onto standard input (`-`).

    Raises:
        BadInputError: It cannot be read, or is something else.
    """
    try:
        text = stdin() if file == "-" else Path(file).read_text(encoding="utf-8")
        deployment = json.loads(text)["deployment"]
        resources = deployment.get("resources") or []
        pending = deployment.get("pending_operations") or []
        urns = [str(one["urn"]) for one in [*resources, *(two["resource"] for two in pending)]]
    except OSError as error:
        raise BadInputError(f"--state {file}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"--state {file}: not what `pulumi stack export` writes; make it anew: "
            "pulumi stack export --file state.json"
        ) from error
    stack = urns[0].split("::")[0].removeprefix("urn:pulumi:") if urns else ""
    return State(stack=stack, resources=tuple(resources), pending=tuple(pending))


def _rights(asked: _Asked, namespaces: Iterable[str]) -> tuple[str, tuple[Right, ...]]:
    """Who the caller is, and what an update needs and the caller may not do."""
    needed = [Right(verb=verb, resource=one) for one in _CLUSTER_WIDE for verb in _VERBS]
    needed += [
        Right(verb=verb, resource=one, namespace=where)
        for where in dict.fromkeys(namespaces)
        for one in _NAMESPACED
        for verb in _VERBS
    ]
    reviews: list[Json] = [_review(one) for one in needed]
    reviews.append({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    done = asked.call("create", "--validate=false", "-f", "-", "--output=json", stdin=listed)
    answers = [*_documents(done.stdout, "kubectl create")]
    # before 1.28 nobody answers the last one
    allowed = [one["status"]["allowed"] for one in answers if "AccessReview" in one["kind"]]
    if len(allowed) != len(needed):
        raise BadInputError(f"the cluster does not say what you may do: {_reason(done)}")
    who = [one["status"]["userInfo"] for one in answers if one["kind"] == "SelfSubjectReview"]
    user = str(who[0].get("username", "")) if who else ""
    return user, tuple(one for one, may in zip(needed, allowed, strict=True) if not may)


def _review(right: Right) -> Json:
    resource, _, group = right.resource.partition(".")
    asked = {"verb": right.verb, "resource": resource, "group": group, "namespace": right.namespace}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }


def _going(item: Json) -> bool:
    return "deletionTimestamp" in item["metadata"]


def _left(asked: _Asked, item: Json) -> list[Json]:
    """What remains in a namespace that is being deleted, of the resources that it names itself."""
    said = str(condition(item, "NamespaceContentRemaining").get("message", ""))
    # it reads: Some resources are remaining: configmaps. has 1 resource instances, pods. has 2 ...
    resources = [one.rstrip(".") for one in re.findall(r"([\w.-]+) has \d+ resource inst", said)]
    if not resources:
        return []
    done = asked.call("get", ",".join(resources), "--namespace", name(item), "--output=json")
    found = _documents(done.stdout, "kubectl get") if done.stdout else ()
    return [one for document in found for one in document.get("items") or ()]


def _lost(asked: _Asked, parts: Iterable[Part]) -> Iterator[Part]:
    """Those that are not there, by their names alone."""
    places: dict[tuple[str, str], list[Part]] = defaultdict(list)
    for one in parts:
        if one.kind != "Secret":
            places[one.kind, one.namespace].append(one)
    for (kind, where), group in places.items():
        words = ("--namespace", where) if where else ()
        done = asked.call("get", kind, *words, "--output=name")
        if refused := _REFUSED.search(done.stderr):
            asked.unread[kind.partition(".")[0]] = ".".join(filter(None, refused.groups()))
            continue
        # no such kind: its CRD is gone
        if done.returncode and "resource type" not in done.stderr:
            raise BadInputError(f"kubectl get: {_reason(done)}")
        there = {line.rpartition("/")[2] for line in done.stdout.split()}
        yield from (one for one in group if one.name not in there)


def _kind(item: Json) -> tuple[str, str]:
    """Group and kind of an object."""
    return str(item["apiVersion"]).partition("/")[0], str(item["kind"])


def _kind_of(crd: Json) -> tuple[str, str]:
    """Group and kind of what a CRD defines."""
    return crd["spec"]["group"], crd["spec"]["names"]["kind"]


def _served(crd: Json) -> bool:
    """Whether its objects can be listed."""
    return condition(crd, "Established").get("status") == "True"


def _run(argv: Sequence[str], stdin: str | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise BadInputError("kubectl is not on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise BadInputError(f"the cluster did not answer in {_TIMEOUT_S} seconds") from error


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1]


def _documents(text: str, what: str) -> Iterator[dict[str, Any]]:
    """The JSON documents of a stream."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise BadInputError(f"the answer of {what} is not JSON: {error}") from error
        yield document
