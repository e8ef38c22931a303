"""What was read of a cluster, and what a check of it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

Json = dict[str, Any]
"""An object as the API server has it."""

STACK_ANNOTATION = "service-mesh/stack"
"""Annotation of a namespace that a stack created; its value is PROJECT/STACK."""

INJECTION_LABEL, REVISION_LABEL = "istio-injection", "istio.io/rev"
"""Labels of a namespace that ask for sidecars; where both are there the first counts."""

ROOT_CONFIG_MAP = "istio-ca-root-cert"
"""ConfigMap that istiod writes its root certificate to, in every namespace."""


class BadInputError(Exception):
    """The cluster could not be asked, or the command line is wrong; the message is one sentence."""


class Severity(StrEnum):
    """What a finding means for the exit code."""

    FATAL = "fatal"
    """Something does not work, or would not: exit code 1."""

    WARNING = "warning"
    """Worth a look: exit code 0."""


class Phase(StrEnum):
    """Whether there is a control plane."""

    ABSENT = "absent"
    """None: before an install, or after a destroy."""

    INSTALLED = "installed"
    """A Deployment of istiod."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    problem: str
    """One sentence that names the object."""

    fix: tuple[str, ...] = ()
    """Shell commands that mend it, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Right:
    """A verb on a resource, in a namespace or everywhere (empty)."""

    verb: str
    resource: str
    """In kubectl's words: `pods` or `deployments.apps`."""
    namespace: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """An object that a Helm release made."""

    release: str
    home: str
    """Namespace of the release."""

    kind: str
    """In kubectl's words: `ConfigMap` or `Deployment.apps`."""
    namespace: str
    """Empty where the kind has none."""
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What `pulumi stack export` says."""

    stack: str
    """Name of the stack; empty when nothing is in it."""

    resources: tuple[Json, ...]
    pending: tuple[Json, ...]
    """Operations that an interrupted update left."""

    @property
    def parts(self) -> Iterator[Part]:
        """What the stack's Helm releases are made of: Pulumi writes that down and looks no more."""
        for one in self.resources:
            outputs = (one.get("outputs") or {}) if is_release(one) else {}
            for kind, names in (outputs.get("resourceNames") or {}).items():
                for found in names:
                    where, _, named = str(found).rpartition("/")
                    yield Part(
                        release=outputs["name"],
                        home=outputs["namespace"],
                        # it reads Deployment.apps/apps/v1
                        kind=kind.partition("/")[0],
                        namespace=where,
                        name=named,
                    )


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All that the checks look at. `doctor.read` makes it."""

    kubectl: str
    """The words that lead kubectl to this cluster, for commands to copy."""

    client: str
    """Version of kubectl, as `v1.37.1`."""

    server: str
    """Version of the API server, likewise."""

    objects: Mapping[str, Sequence[Json]]
    """By kind, `Pod`; of Istio's kinds all are under their CRD's name."""

    now: datetime
    unread: Mapping[str, str]
    """Kinds that could not be listed, and the resource in kubectl's words."""

    denied: tuple[Right, ...] = ()
    """What the caller may not do and an update must."""

    user: str = ""
    """Who the API server takes the caller for."""

    left: Mapping[str, Sequence[Json]] | None = None
    """Of namespaces that are being deleted: the objects that the API server says remain."""

    lost: tuple[Part, ...] = ()
    """Of what the state's Helm releases made: what is not there."""

    state: State | None = None
    stack: str | None = None
    """PROJECT/STACK whose namespaces are looked for after a destroy; None: every stack's."""

    istio_version: str | None = None
    """The release that is to be installed, X.Y.Z."""

    expected: Phase | None = None
    """What should be there; None: whatever is."""

    def of(self, *kinds: str) -> Iterator[Json]:
        """The objects of some kinds."""
        for kind in kinds:
            yield from self.objects.get(kind, ())

    @property
    def istiods(self) -> list[Json]:
        """The control planes, one for each revision."""
        return [one for one in self.of("Deployment") if labels(one).get("app") == "istiod"]

    @property
    def istio_versions(self) -> dict[str, str]:
        """Versions of the control planes, and the revision of each."""
        found = {}
        for one in self.istiods:
            for container in one["spec"]["template"]["spec"]["containers"]:
                if version := release(tag(container["image"])):
                    found[version] = labels(one).get(REVISION_LABEL, "default")
        return found

    @property
    def phase(self) -> Phase | None:
        """Whether there is a control plane; None: Deployments may not be listed."""
        if "Deployment" in self.unread:
            return None
        return Phase.INSTALLED if self.istiods else Phase.ABSENT

    @property
    def wanted(self) -> Phase | None:
        """What should be there, by the command line or else by the state."""
        if self.expected is None and self.state is not None:
            releases = [one for one in self.state.resources if is_istiod_release(one)]
            return Phase.INSTALLED if releases else Phase.ABSENT
        return self.expected

    @property
    def istio_crds(self) -> list[Json]:
        """Istio's CustomResourceDefinitions."""
        crds = self.of("CustomResourceDefinition")
        return [one for one in crds if name(one).endswith(".istio.io")]

    @property
    def istio_objects(self) -> Iterator[tuple[str, Json]]:
        """Everybody's objects of Istio's kinds, each with its kind in kubectl's words."""
        for crd in self.istio_crds:
            for one in self.of(name(crd)):
                yield name(crd), one

    def command(self, *words: str) -> str:
        """A command of kubectl's for this cluster, to copy."""
        return f"{self.kubectl} {shlex.join(words)}"

    def reapply(self, helm: str, where: str) -> str:
        """Makes what a Helm release installed and somebody deleted, with no chart at hand."""
        reach = self.kubectl.removeprefix("kubectl").replace(" --context ", " --kube-context ")
        apply = self.command("apply", "--server-side", "--force-conflicts", "--filename", "-")
        return f"helm{reach} get manifest {helm} --namespace {where} | {apply}"

    def pulumi(self, *words: str) -> str:
        """A command of Pulumi's for this stack, to copy."""
        stack = self.state.stack if self.state else ""
        return shlex.join(("pulumi", *words, *(("--stack", stack) if stack else ())))


Checked = Callable[[Cluster], Iterable[Finding]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the report."""

    id: str
    """Never changes: for scripts."""

    category: str
    claim: str
    """What is so when nothing is found."""

    run: Checked
    severity: Severity = Severity.FATAL
    needs: tuple[str, ...] = ()
    """Kinds without which it cannot be judged."""

    phases: tuple[Phase, ...] = tuple(Phase)
    skip: Callable[[Cluster], str | None] = lambda _: None
    """Why there is nothing to judge, if so."""


class Result(StrEnum):
    """How a check went; `linkerd check` has the first three."""

    SUCCESS = "success"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A check and what it found."""

    check: Check
    result: Result
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    """Why it was skipped."""


def judge(cluster: Cluster, checks: Iterable[Check]) -> list[Outcome]:
    """Run the checks that fit what is there."""
    known = (cluster.phase,) if cluster.phase else tuple(Phase)
    return [_judged(cluster, one) for one in checks if {*known} <= {*one.phases}]


def _judged(cluster: Cluster, check: Check) -> Outcome:
    unread = [cluster.unread[kind] for kind in check.needs if kind in cluster.unread]
    reason = f"{', '.join(unread)} may not be listed" if unread else check.skip(cluster)
    if reason:
        return Outcome(check=check, result=Result.SKIPPED, reason=reason)
    findings = tuple(check.run(cluster))
    if not findings:
        return Outcome(check=check, result=Result.SUCCESS)
    fatal = check.severity is Severity.FATAL
    return Outcome(check=check, result=Result.ERROR if fatal else Result.WARNING, findings=findings)


# --- what objects say ----------------------------------------------------------------------------


def name(item: Mapping[str, Any]) -> str:
    """metadata.name."""
    return str(item["metadata"]["name"])


def namespace(item: Mapping[str, Any]) -> str:
    """metadata.namespace; empty where there is none."""
    return str(item["metadata"].get("namespace", ""))


def labels(item: Mapping[str, Any]) -> dict[str, str]:
    """metadata.labels."""
    return item["metadata"].get("labels") or {}


def notes(item: Mapping[str, Any]) -> dict[str, str]:
    """metadata.annotations."""
    return item["metadata"].get("annotations") or {}


def finalizers(item: Mapping[str, Any]) -> list[str]:
    """metadata.finalizers."""
    return item["metadata"].get("finalizers") or []


def condition(item: Mapping[str, Any], kind: str) -> Json:
    """A condition of its status; empty where there is none."""
    found = (item.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one.get("type") == kind), {})


def why(found: Json) -> str:
    """What a condition gives as its reason."""
    return str(found.get("message") or found.get("reason") or "nobody says why").strip()


def is_istios(configuration: Json) -> bool:
    """Whether a webhook configuration is Istio's, by the names of its webhooks."""
    hooks = configuration.get("webhooks") or ()
    return any(str(one["name"]).endswith("istio.io") for one in hooks)


def minor(version: str) -> int | None:
    """The minor number of a version such as `v1.36.2-gke.1`; None where it has none."""
    found = re.match(r"v?\d+\.(\d+)", version)
    return int(found[1]) if found else None


def release(version: str) -> str | None:
    """X.Y.Z of a version or an image tag such as `1.31.0-distroless`; None where it has none."""
    found = re.match(r"v?(\d+\.\d+\.\d+)", version)
    return found[1] if found else None


def tag(image: str) -> str:
    """The tag of an image; empty where it has none."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def is_release(resource: Mapping[str, Any]) -> bool:
    """Whether a resource of a state is a Helm release."""
    return str(resource.get("type", "")).startswith("kubernetes:helm.sh/")


def is_istiod_release(resource: Mapping[str, Any]) -> bool:
    """Whether a resource of a state is the Helm release of a control plane."""
    outputs = resource.get("outputs") or {}
    chart = str(outputs.get("chart", "")).rstrip("/").rpartition("/")[2]
    return is_release(resource) and chart in ("istiod", "istio-discovery")
