"""What `python -m doctor` finds in the lab as it was recorded, and where something is wrong."""

from __future__ import annotations

import ast
import base64
import copy
import io
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components import kinds
from doctor import checks, model
from doctor import read as reading
from doctor.__main__ import main
from doctor.certificate import blocks, not_after
from doctor.checks import crds
from doctor.model import Cluster, Outcome, Phase, Result, judge
from doctor.read import Question, read, read_state
from doctor.report import as_text
from tests.unit.charts import FOLDER

_RECORDED = json.loads((Path(__file__).parent / "recorded" / "doctor.json").read_text())
_NOW = datetime(2026, 11, 24, tzinfo=UTC)
"""A day after the recording."""

_PLAIN = ("Node", "Namespace", "Service")
"""Kinds of which a cluster without Istio has some."""

Objects = list[dict[str, Any]]


class Kubectl:
    """Answers as kubectl does, from objects."""

    def __init__(self, objects: Objects | None = None) -> None:
        self.objects = copy.deepcopy(_RECORDED["objects"]) if objects is None else objects
        self.version = copy.deepcopy(_RECORDED["version"])
        self.unlisted: set[str] = set()
        self.unknown: set[str] = set()
        self.forbidden: Callable[[dict[str, str]], bool] = lambda _: False
        self.asked: list[Sequence[str]] = []

    def __call__(self, argv: Sequence[str], stdin: str | None) -> subprocess.CompletedProcess[str]:
        self.asked.append(argv)
        words = [word for word in argv[1:] if not word.startswith("-")]
        if "version" in words:
            return self._done(json.dumps(self.version))
        if "create" in words:
            return self._done(self._reviewed(json.loads(stdin or "")))
        return self._got(argv[argv.index("get") + 1], argv)

    def the(self, kind: str, name: str) -> dict[str, Any]:
        """One object, to be changed."""
        return next(
            one
            for one in self.objects
            if one["kind"] == kind and one["metadata"]["name"].startswith(name)
        )

    def remove(self, *kinds_: str, name: str = "") -> None:
        self.objects = [
            one
            for one in self.objects
            if one["kind"] not in kinds_ or not one["metadata"]["name"].startswith(name)
        ]

    def add(self, kind: str, name: str, **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name},
            **more,
        }
        self.objects.append(made)
        return made

    def _got(self, resources: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        asked = resources.split(",")
        if "--output=name" in argv:
            return self._named(resources, argv)
        errors = [
            f'Error from server (Forbidden): User "jane" cannot list resource '
            f'"{one.partition(".")[0]}" in API group "{one.partition(".")[2]}" at the cluster scope'
            for one in asked
            if one in self.unlisted
        ]
        plurals = {**reading.KINDS, "ConfigMap": "configmaps"}
        crds = {
            one["spec"]["names"]["kind"]: one["metadata"]["name"]
            for one in self.objects
            if one["kind"] == "CustomResourceDefinition"
        }
        where = argv[argv.index("--namespace") + 1] if "--namespace" in argv else None
        items = [
            one
            for one in self.objects
            if (resource := plurals.get(one["kind"]) or crds.get(one["kind"])) in asked
            and resource not in self.unlisted
            and where in (None, one["metadata"].get("namespace"))
        ]
        listed = json.dumps({"kind": "List", "items": items})
        return self._done(listed, "\n".join(errors))

    def _named(self, kind: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        where = argv[argv.index("--namespace") + 1] if "--namespace" in argv else None
        plural, group = f"{kind.partition('.')[0].lower()}s", kind.partition(".")[2]
        if kind in self.unknown:
            return self._done("", f'error: the server doesn\'t have a resource type "{plural}"')
        if f"{plural}.{group}".rstrip(".") in self.unlisted:
            said = f'User "jane" cannot list resource "{plural}" in API group "{group}"'
            return self._done("", f"Error from server (Forbidden): {plural} is forbidden: {said}")
        names = [
            f"{kind.lower()}/{one['metadata']['name']}"
            for one in self.objects
            if one["kind"] == kind.partition(".")[0]
            and where in (None, one["metadata"].get("namespace"))
        ]
        return self._done("\n".join(names))

    def _reviewed(self, listed: dict[str, Any]) -> str:
        answers = []
        for review in listed["items"]:
            if review["kind"] == "SelfSubjectReview":
                answers.append({**review, "status": {"userInfo": {"username": "jane"}}})
            else:
                may = not self.forbidden(review["spec"]["resourceAttributes"])
                answers.append({**review, "status": {"allowed": may}})
        return "\n".join(json.dumps(one, indent=4) for one in answers)

    def _done(self, out: str, error: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1 if error else 0, out, error)


@pytest.fixture
def kubectl() -> Kubectl:
    """The lab after `make up`."""
    return Kubectl()


@pytest.fixture
def empty() -> Kubectl:
    """A cluster that has never seen Istio."""
    objects = [one for one in _RECORDED["objects"] if one["kind"] in _PLAIN]
    made = Kubectl(copy.deepcopy(objects))
    made.remove("Namespace", name="bookinfo")
    made.remove("Namespace", "Service", name="istio")
    return made


def _cluster(kubectl: Kubectl, **known: Any) -> Cluster:
    return replace(read(Question(), kubectl), **{"now": _NOW, **known})


def _found(kubectl: Kubectl, **known: Any) -> dict[str, Outcome]:
    """What is not fine, by the check's name."""
    return _wrong(judge(_cluster(kubectl, **known), checks.CHECKS))


def _wrong(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    fine = (Result.SUCCESS, Result.SKIPPED)
    return {one.check.id: one for one in outcomes if one.result not in fine}


def _one(kubectl: Kubectl, check: str, **known: Any) -> tuple[str, tuple[str, ...]]:
    """The only thing that is found, and its commands; it must be this check's."""
    found = _found(kubectl, **known)
    assert set(found) == {check}
    (finding,) = found[check].findings
    return finding.problem, finding.fix


def _state(**changes: Any) -> model.State:
    deployment = {**_RECORDED["state"]["deployment"], **changes}
    return read_state("-", lambda: json.dumps({"deployment": deployment}))


_CRD = "CustomResourceDefinition.apiextensions.k8s.io/apiextensions.k8s.io/v1"
_MADE = {
    "istio-base": {_CRD: ["telemetries.telemetry.istio.io"]},
    "istiod": {
        "ClusterRole.rbac.authorization.k8s.io/rbac.authorization.k8s.io/v1": ["istiod-x"],
        "ConfigMap/v1": ["istio-system/istio"],
        "Deployment.apps/apps/v1": ["istio-system/istiod"],
        "Secret/v1": ["istio-system/never-asked-for"],
    },
}
"""What Pulumi's state says that two Helm releases made."""


def _releases() -> model.State:
    """A state with what Helm made in it."""
    resources = [
        {
            "urn": f"urn:pulumi:dev::service-mesh::kubernetes:helm.sh/v3:Release::{name}",
            "type": "kubernetes:helm.sh/v3:Release",
            "outputs": {"name": name, "namespace": "istio-system", "resourceNames": made},
        }
        for name, made in _MADE.items()
    ]
    return _state(resources=[*_RECORDED["state"]["deployment"]["resources"], *resources])


@pytest.fixture
def whole(kubectl: Kubectl) -> Kubectl:
    """The lab with all that the state says that Helm made."""
    kubectl.add("ClusterRole", "istiod-x")
    kubectl.add("ConfigMap", "istio", metadata={"name": "istio", "namespace": "istio-system"})
    return kubectl


def _lost(kubectl: Kubectl) -> dict[str, Outcome]:
    cluster = replace(read(Question(), kubectl, _releases()), now=_NOW)
    return _wrong(judge(cluster, checks.CHECKS))


# --- fine ----------------------------------------------------------------------------------------


def test_a_mesh_as_the_lab_makes_it_is_fine_in_every_check(kubectl: Kubectl) -> None:
    outcomes = judge(_cluster(kubectl, state=_state()), checks.CHECKS)
    assert {one.result for one in outcomes} == {Result.SUCCESS}
    assert len(outcomes) > 20


def test_a_cluster_without_istio_is_fine_before_an_install(empty: Kubectl) -> None:
    assert _found(empty, istio_version="1.31.1", expected=Phase.ABSENT) == {}


def test_the_cluster_is_only_asked(kubectl: Kubectl) -> None:
    _cluster(kubectl)
    verbs = [next(w for w in argv[1:] if not w.startswith("-")) for argv in kubectl.asked]
    assert set(verbs) == {"version", "get", "create"}
    assert not any(
        "secrets" in argv[argv.index("get") + 1] for argv in kubectl.asked if "get" in argv
    )


# --- what Helm made ------------------------------------------------------------------------------


def test_all_that_helm_made_is_there_and_no_secret_was_asked_for(whole: Kubectl) -> None:
    assert _lost(whole) == {}
    assert not any(word.lower().startswith("secret") for argv in whole.asked for word in argv)


def test_what_helm_made_and_somebody_deleted_is_named_with_the_release_that_has_it(
    whole: Kubectl,
) -> None:
    whole.objects.pop()
    whole.remove("ClusterRole", name="istiod-x")
    (finding,) = _lost(whole)["helm-objects"].findings
    assert finding.problem == (
        "Helm's release istiod has lost ClusterRole istiod-x, ConfigMap istio-system/istio; "
        "no update brings it back"
    )
    assert finding.fix == (
        "helm get manifest istiod --namespace istio-system | "
        "kubectl apply --server-side --force-conflicts --filename -",
    )


def test_an_object_of_the_same_name_elsewhere_is_not_the_one_that_is_lost(whole: Kubectl) -> None:
    whole.objects[-1]["metadata"]["namespace"] = "elsewhere"
    assert set(_lost(whole)) == {"helm-objects"}


def test_with_a_crd_went_the_objects_of_its_kind_which_an_update_makes_again(
    whole: Kubectl,
) -> None:
    whole.remove("CustomResourceDefinition", name="telemetries")
    found = _lost(whole)
    (finding,) = found["helm-objects"].findings
    assert "istio-base has lost CustomResourceDefinition telemetries" in finding.problem
    assert finding.fix[1:] == ("pulumi up --refresh --stack dev",)


def test_of_a_kind_that_the_cluster_does_not_have_everything_is_lost(whole: Kubectl) -> None:
    whole.unknown = {"Deployment.apps"}
    (finding,) = _lost(whole)["helm-objects"].findings
    assert "Deployment istio-system/istiod" in finding.problem


def test_what_helm_made_and_may_not_be_listed_is_said_and_not_called_lost(whole: Kubectl) -> None:
    whole.unlisted = {"clusterroles.rbac.authorization.k8s.io"}
    whole.remove("ClusterRole")
    found = _lost(whole)
    assert "helm-objects" not in found
    (finding,) = found["may-read"].findings
    assert finding.problem.startswith("clusterroles.rbac.authorization.k8s.io may not be listed")


def test_where_the_namespace_is_gone_nothing_of_helms_is_said_to_be_lost(whole: Kubectl) -> None:
    whole.remove("Namespace", "ConfigMap", name="istio")
    assert "helm-objects" not in _lost(whole)


def test_an_answer_that_is_no_list_of_names_is_no_verdict(whole: Kubectl) -> None:
    def broken(argv: Sequence[str], stdin: str | None) -> subprocess.CompletedProcess[str]:
        if "--output=name" in argv:
            return subprocess.CompletedProcess([], 1, "", "Unable to connect to the server")
        return whole(argv, stdin)

    with pytest.raises(model.BadInputError, match="Unable to connect"):
        read(Question(), broken, _releases())


# --- the cluster and the rights ------------------------------------------------------------------


def test_kubernetes_older_than_istio_allows_is_fatal(empty: Kubectl) -> None:
    empty.version["serverVersion"]["gitVersion"] = "v1.31.9-gke.1"
    empty.version["clientVersion"]["gitVersion"] = "v1.31.0"
    empty.the("Node", "")["status"]["nodeInfo"]["kubeletVersion"] = "v1.31.0"
    found = _found(empty, istio_version="1.30.2")
    assert set(found) == {"kubernetes-version", "native-sidecars"}
    assert "needs Kubernetes 1.32" in found["kubernetes-version"].findings[0].problem
    assert "kubernetes-version" not in _found(empty, istio_version="1.29.0")


def test_a_release_that_is_not_known_is_no_verdict(empty: Kubectl) -> None:
    outcomes = judge(_cluster(empty, istio_version="1.99.0"), checks.CHECKS)
    assert outcomes[0].result is Result.SKIPPED
    assert "1.99.0" in outcomes[0].reason


def test_kubectl_two_minor_versions_away_is_a_warning(kubectl: Kubectl) -> None:
    kubectl.version["clientVersion"]["gitVersion"] = "v1.34.0"
    assert "v1.34.0" in _one(kubectl, "kubectl-version")[0]


def test_a_node_that_is_not_ready_says_why(kubectl: Kubectl) -> None:
    ready = model.condition(kubectl.the("Node", "lab"), "Ready")
    ready |= {"status": "False", "message": "container runtime is down"}
    problem, fix = _one(kubectl, "nodes-ready")
    assert "container runtime is down" in problem
    assert fix == ("kubectl describe node lab",)


@pytest.mark.parametrize(
    ("kubelet", "check"),
    [
        ("v1.37.0", "kubelet-version"),
        ("v1.32.1", "kubelet-version"),
        ("v1.32.1", "native-sidecars"),
    ],
)
def test_a_kubelet_of_a_wrong_version_is_named(kubectl: Kubectl, kubelet: str, check: str) -> None:
    kubectl.the("Node", "lab")["status"]["nodeInfo"]["kubeletVersion"] = kubelet
    assert f"kubelet {kubelet}" in _found(kubectl)[check].findings[0].problem


def test_a_missing_right_is_named_by_verb_resource_and_namespace(kubectl: Kubectl) -> None:
    kubectl.forbidden = lambda asked: (
        asked["resource"] == "clusterroles"
        or (asked["resource"], asked["verb"], asked.get("namespace"))
        == ("services", "delete", "bookinfo")
    )
    (outcome,) = _found(kubectl).values()
    assert [one.problem for one in outcome.findings] == [
        "you may not create, patch or delete clusterroles.rbac.authorization.k8s.io in the cluster",
        "you may not delete services in bookinfo",
    ]
    assert "--user=jane" in outcome.findings[0].fix[0]


def test_what_may_not_be_listed_is_skipped_and_said(kubectl: Kubectl) -> None:
    kubectl.unlisted = {"nodes", "services"}
    outcomes = {one.check.id: one for one in judge(_cluster(kubectl), checks.CHECKS)}
    assert "nodes, services may not be listed" in outcomes["may-read"].findings[0].problem
    assert outcomes["nodes-ready"].reason == "nodes may not be listed"
    assert outcomes["webhooks-orphaned"].result is Result.SKIPPED


def test_without_the_deployments_nobody_says_that_istio_is_not_there(kubectl: Kubectl) -> None:
    kubectl.unlisted = {"deployments.apps"}
    cluster = _cluster(kubectl)
    assert cluster.phase is None
    assert not {one.check.category for one in judge(cluster, checks.CHECKS)} & {"leftovers"}


# --- the control plane ---------------------------------------------------------------------------


def test_an_istiod_that_is_not_ready_is_fatal(kubectl: Kubectl) -> None:
    istiod = kubectl.the("Deployment", "istiod")
    del istiod["status"]["readyReplicas"]
    model.condition(istiod, "Available")["message"] = "no minimum availability"
    assert "0 of 1 ready: no minimum availability" in _one(kubectl, "istiod-ready")[0]
    istiod["spec"]["replicas"] = 0
    assert "--replicas=1" in _one(kubectl, "istiod-ready")[1][0]


def test_a_webhook_whose_service_is_gone_is_fatal_and_its_deletion_the_hint(
    empty: Kubectl,
) -> None:
    empty.objects.append(Kubectl().the("MutatingWebhookConfiguration", "istio-sidecar-injector"))
    problem, fix = _one(empty, "webhooks-orphaned")
    assert "istio-system/istiod, which does not exist: it refuses every change of pods" in problem
    assert fix == ("kubectl delete mutatingwebhookconfiguration istio-sidecar-injector",)


def test_a_webhook_of_a_control_plane_that_should_be_there_is_not_to_be_deleted(
    kubectl: Kubectl,
) -> None:
    kubectl.remove("Service", "Deployment", "EndpointSlice", name="istiod")
    found = _found(kubectl, state=_state())
    fixes = {f for one in found.values() for finding in one.findings for f in finding.fix}
    assert fixes == {
        "helm get manifest istiod --namespace istio-system | "
        "kubectl apply --server-side --force-conflicts --filename -"
    }
    assert set(found) == {"as-expected", "webhooks-orphaned"}


def test_of_a_webhook_configuration_only_what_is_dead_is_removed(kubectl: Kubectl) -> None:
    configuration = kubectl.the("MutatingWebhookConfiguration", "istio-sidecar-injector")
    for at in (1, 3):
        configuration["webhooks"][at]["clientConfig"]["service"]["name"] = "istiod-old"
    _, (fix,) = _one(kubectl, "webhooks-orphaned")
    assert fix.index("/webhooks/3") < fix.index("/webhooks/1")
    assert "/webhooks/0" not in fix


def test_others_webhooks_count_only_when_they_block(empty: Kubectl) -> None:
    hook = {
        "name": "check.example.com",
        "clientConfig": {"service": {"namespace": "gone", "name": "checker"}},
        "failurePolicy": "Ignore",
        "rules": [{"resources": ["deployments"]}],
    }
    empty.add("ValidatingWebhookConfiguration", "checker", webhooks=[hook])
    assert _found(empty) == {}
    hook["failurePolicy"] = "Fail"
    assert "gone/checker" in _one(empty, "webhooks-orphaned")[0]


def test_a_webhook_service_without_a_ready_endpoint_is_fatal(kubectl: Kubectl) -> None:
    slice_ = kubectl.the("EndpointSlice", "istiod")
    slice_["endpoints"][0]["conditions"]["ready"] = False
    problem, fix = _one(kubectl, "webhooks-answer")
    assert problem.startswith("Service istio-system/istiod has no endpoint that is ready")
    assert fix == ("kubectl --namespace istio-system describe service/istiod",)


def test_a_webhook_that_knows_no_root_certificate_is_fatal(kubectl: Kubectl) -> None:
    hooks = kubectl.the("ValidatingWebhookConfiguration", "istiod-default")["webhooks"]
    del hooks[0]["clientConfig"]["caBundle"]
    problem, fix = _one(kubectl, "webhooks-ca")
    assert problem.startswith("caBundle of ValidatingWebhookConfiguration istiod-default-validator")
    assert "is empty" in problem
    assert fix == ("kubectl --namespace istio-system rollout restart deployment/istiod",)


def test_a_webhook_that_knows_another_root_certificate_is_fatal(kubectl: Kubectl) -> None:
    hooks = kubectl.the("MutatingWebhookConfiguration", "istio-sidecar")["webhooks"]
    known = base64.b64decode(hooks[0]["clientConfig"]["caBundle"]).decode()
    other = known.replace("M", "N", 1)
    hooks[0]["clientConfig"]["caBundle"] = base64.b64encode(other.encode()).decode()
    assert "is not istiod's root certificate" in _one(kubectl, "webhooks-ca")[0]


def test_what_is_there_and_should_not_be_is_fatal(kubectl: Kubectl) -> None:
    assert "no Istio should be" in _one(kubectl, "as-expected", expected=Phase.ABSENT)[0]
    assert "as-expected" in _found(kubectl, state=_state(resources=[]))


def test_what_should_be_there_and_is_not_is_fatal(empty: Kubectl) -> None:
    problem, fix = _one(empty, "as-expected", expected=Phase.INSTALLED)
    assert "there should be one" in problem
    assert fix == ("pulumi up",)


# --- the data plane ------------------------------------------------------------------------------


def test_two_injection_labels_are_a_warning(kubectl: Kubectl) -> None:
    kubectl.the("Namespace", "bookinfo")["metadata"]["labels"]["istio.io/rev"] = "default"
    _, fix = _one(kubectl, "injection-labels")
    assert fix == ("kubectl label namespace bookinfo istio.io/rev-",)


def test_a_revision_label_that_no_injector_serves_is_fatal(kubectl: Kubectl) -> None:
    meta = kubectl.the("Namespace", "default")["metadata"]
    meta["labels"]["istio.io/rev"] = "ghost"
    problem, fix = _one(kubectl, "injector")
    assert "istio.io/rev=ghost, and no injector serves it" in problem
    assert fix == ("kubectl label namespace default istio.io/rev- istio-injection=enabled",)
    meta["labels"]["istio.io/rev"] = "default"
    assert _found(kubectl) == {}


def test_an_injection_label_without_the_default_revision_names_the_revision_there_is(
    kubectl: Kubectl,
) -> None:
    kubectl.remove("MutatingWebhookConfiguration")
    kubectl.the("Deployment", "istiod")["metadata"]["labels"]["istio.io/rev"] = "canary"
    found = _found(kubectl)
    assert found["injector"].findings[0].fix == (
        "kubectl label namespace bookinfo istio-injection- istio.io/rev=canary",
    )


def test_a_namespace_that_wants_no_sidecars_needs_no_injector(kubectl: Kubectl) -> None:
    kubectl.the("Namespace", "default")["metadata"]["labels"]["istio-injection"] = "disabled"
    assert _found(kubectl) == {}


def test_a_pod_without_a_sidecar_is_restarted_by_what_it_belongs_to(kubectl: Kubectl) -> None:
    pod = kubectl.the("Pod", "details-v1")
    pod["spec"]["initContainers"] = []
    _, fix = _one(kubectl, "sidecars")
    assert fix == ("kubectl --namespace bookinfo rollout restart deployment/details-v1",)
    del pod["metadata"]["ownerReferences"]
    assert f"delete pod {pod['metadata']['name']}" in _one(kubectl, "sidecars")[1][0]


@pytest.mark.parametrize("how", ["label", "host network", "ended", "going"])
def test_a_pod_that_is_to_have_no_sidecar_is_fine_without(kubectl: Kubectl, how: str) -> None:
    pod = kubectl.the("Pod", "details-v1")
    pod["spec"]["initContainers"] = []
    match how:
        case "label":
            pod["metadata"]["labels"]["sidecar.istio.io/inject"] = "false"
        case "host network":
            pod["spec"]["hostNetwork"] = True
        case "ended":
            pod["status"]["phase"] = "Succeeded"
        case _:
            pod["metadata"]["deletionTimestamp"] = "2026-11-23T17:00:00Z"
    assert _found(kubectl) == {}


def test_a_proxy_that_is_not_ready_is_a_warning(kubectl: Kubectl) -> None:
    for one in kubectl.the("Pod", "details-v1")["status"]["initContainerStatuses"]:
        one["ready"] = False
    assert "is not ready" in _one(kubectl, "proxies-ready")[0]


def test_a_proxy_of_another_version_is_a_warning(kubectl: Kubectl) -> None:
    for one in kubectl.the("Pod", "details-v1")["spec"]["initContainers"]:
        one["image"] = "registry:5000/proxyv2:1.30.4-distroless@sha256:00"
    assert "is 1.30.4, istiod 1.31.0" in _one(kubectl, "proxies-version")[0]


def test_a_proxy_of_a_revision_that_is_gone_is_fatal(kubectl: Kubectl) -> None:
    kubectl.the("Pod", "details-v1")["metadata"]["annotations"]["istio.io/rev"] = "old"
    problem, fix = _one(kubectl, "proxies-revision")
    assert "revision old, which is gone; there is default" in problem
    assert fix == ("kubectl --namespace bookinfo rollout restart deployment/details-v1",)


# --- CRDs and certificates -----------------------------------------------------------------------


def test_the_crds_are_those_of_the_chart() -> None:
    file = FOLDER / "base" / "files" / "crd-all.gen.yaml"
    chart = re.findall(r"^  name: (\S+istio\.io)$", file.read_text(), flags=re.MULTILINE)
    assert set(crds.CRDS) == set(chart)


def test_a_missing_crd_is_fatal(kubectl: Kubectl) -> None:
    kubectl.remove("CustomResourceDefinition", name="sidecars.networking")
    problem, fix = _one(kubectl, "crds-installed")
    assert "sidecars.networking.istio.io is missing" in problem
    assert fix[0].startswith(
        "helm get manifest istio-base --namespace istio-system | kubectl apply"
    )


def test_a_crd_that_is_not_established_is_fatal_and_its_objects_are_not_asked_for(
    kubectl: Kubectl,
) -> None:
    crd = kubectl.the("CustomResourceDefinition", "gateways")
    model.condition(crd, "Established").update(status="False", message="names conflict")
    assert "names conflict" in _one(kubectl, "crds-established")[0]
    asked = " ".join(word for argv in kubectl.asked for word in argv)
    assert "gateways.networking.istio.io" not in asked


def test_a_stored_version_that_is_no_longer_there_is_a_warning(kubectl: Kubectl) -> None:
    crd = kubectl.the("CustomResourceDefinition", "gateways")
    crd["status"]["storedVersions"] = ["v1alpha3", "v9"]
    problem, fix = _one(kubectl, "crds-stored")
    assert "stored as v9" in problem
    assert "--subresource=status" in fix[0]


def test_the_end_of_a_certificate_is_read_as_openssl_reads_it(kubectl: Kubectl) -> None:
    pem = kubectl.the("ConfigMap", "istio-ca-root-cert")["data"]["root-cert.pem"]
    assert not_after(blocks(pem)[0]) == datetime(2036, 11, 20, 17, 12, 21, tzinfo=UTC)


def test_what_is_no_certificate_is_said_to_be_none() -> None:
    with pytest.raises(ValueError, match=r"no X\.509"):
        not_after("-----BEGIN CERTIFICATE-----\nMAIwAA==\n-----END CERTIFICATE-----")


@pytest.mark.parametrize(
    ("left", "check"), [(59, "root-lasts"), (61, None), (-1, "root-valid"), (0, "root-valid")]
)
def test_a_root_certificate_is_warned_of_before_it_ends(
    kubectl: Kubectl, left: int, check: str | None
) -> None:
    pem = kubectl.the("ConfigMap", "istio-ca-root-cert")["data"]["root-cert.pem"]
    now = not_after(blocks(pem)[0]) - timedelta(days=left)
    assert set(_found(kubectl, now=now)) == ({check} if check else set())


# --- taking it down ------------------------------------------------------------------------------


def _dying(kubectl: Kubectl, message: str) -> None:
    made = kubectl.add("Namespace", "stuck")
    made["metadata"]["deletionTimestamp"] = "2026-11-23T17:25:48Z"
    remaining = {"type": "NamespaceContentRemaining", "status": "True", "message": message}
    made["status"] = {"conditions": [remaining]}


def test_what_holds_a_namespace_is_named_and_let_go(empty: Kubectl) -> None:
    _dying(empty, "Some resources are remaining: configmaps. has 2 resource instances")
    held = empty.add("ConfigMap", "held")
    held["metadata"] |= {"namespace": "stuck", "finalizers": ["example.com/hold"]}
    empty.add("ConfigMap", "free")["metadata"]["namespace"] = "stuck"
    (finding,) = _found(empty)["namespaces-terminating"].findings
    assert finding.problem.endswith("held by ConfigMap held (example.com/hold)")
    assert finding.fix == (
        "kubectl --namespace stuck patch ConfigMap held --type=merge "
        """--patch '{"metadata":{"finalizers":null}}'""",
        "kubectl wait --for=delete namespace/stuck --timeout=5m",
    )


def test_a_namespace_that_is_held_by_nothing_known_says_what_the_api_server_says(
    empty: Kubectl,
) -> None:
    _dying(empty, "something of its own")
    problem, fix = _one(empty, "namespaces-terminating")
    assert problem.endswith("something of its own")
    assert len(fix) == 1


@pytest.mark.parametrize(("seconds", "found"), [(59, set()), (60, {"namespaces-terminating"})])
def test_a_namespace_whose_pods_have_just_been_told_to_end_is_not_stuck(
    empty: Kubectl, seconds: int, found: set[str]
) -> None:
    _dying(empty, "Some resources are remaining: pods. has 3 resource instances")
    begun = datetime.fromisoformat(empty.the("Namespace", "stuck")["metadata"]["deletionTimestamp"])
    assert set(_found(empty, now=begun + timedelta(seconds=seconds))) == found


@pytest.mark.parametrize(
    "kind",
    [
        "NamespaceDeletionDiscoveryFailure",
        "NamespaceDeletionContentFailure",
        "NamespaceFinalizersRemaining",
    ],
)
def test_a_namespace_that_the_api_server_cannot_empty_is_stuck_from_the_first_second(
    empty: Kubectl, kind: str
) -> None:
    _dying(empty, "pods remain")
    dying = empty.the("Namespace", "stuck")
    dying["status"]["conditions"].append({"type": kind, "status": "True", "message": "it cannot"})
    begun = datetime.fromisoformat(dying["metadata"]["deletionTimestamp"])
    (finding,) = _found(empty, now=begun)["namespaces-terminating"].findings
    assert finding.problem.endswith(": it cannot pods remain")


def test_a_namespace_with_a_finalizer_in_it_is_stuck_from_the_first_second(empty: Kubectl) -> None:
    _dying(empty, "Some resources are remaining: configmaps. has 1 resource instances")
    empty.add("ConfigMap", "held")["metadata"] |= {"namespace": "stuck", "finalizers": ["a.b/c"]}
    begun = datetime.fromisoformat(empty.the("Namespace", "stuck")["metadata"]["deletionTimestamp"])
    (finding,) = _found(empty, now=begun)["namespaces-terminating"].findings
    assert finding.problem.endswith("held by ConfigMap held (a.b/c)")


@pytest.mark.parametrize(
    ("reason", "verb"), [("ServiceNotFound", "delete"), ("FailedDiscoveryCheck", "describe")]
)
def test_an_apiservice_that_does_not_answer_is_a_warning(
    kubectl: Kubectl, reason: str, verb: str
) -> None:
    said = {"type": "Available", "status": "False", "reason": reason, "message": "no answer"}
    kubectl.add("APIService", "v1.metrics", status={"conditions": [said]})
    assert _one(kubectl, "apiservices")[1] == (f"kubectl {verb} apiservice v1.metrics",)


def test_a_finalizer_on_an_object_of_istios_is_named_with_what_takes_it_away(
    kubectl: Kubectl,
) -> None:
    made = kubectl.add("Gateway", "g", apiVersion="networking.istio.io/v1")
    made["metadata"] |= {"namespace": "bookinfo", "finalizers": ["example.com/hold"]}
    problem, fix = _one(kubectl, "finalizers")
    assert problem == "Gateway bookinfo/g will wait when it is deleted for example.com/hold"
    assert "patch gateways.networking.istio.io g" in fix[0]


def test_what_a_destroy_leaves_is_listed_each_with_its_command(kubectl: Kubectl) -> None:
    kubectl.remove("Deployment", "Pod", "Service")
    kubectl.remove("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    kubectl.add("PersistentVolumeClaim", "data")["metadata"]["namespace"] = "bookinfo"
    found = _found(kubectl, state=_state(resources=[]), stack="service-mesh/dev")
    assert set(found) == {
        *("left-namespaces", "left-volumes", "left-configmaps", "left-roles", "left-labels"),
        "left-crds",
    }
    assert {one.result for one in found.values()} == {Result.WARNING}
    fixes = [fix for one in found.values() for finding in one.findings for fix in finding.fix]
    for command in (
        "kubectl delete namespace bookinfo",
        "kubectl --namespace bookinfo delete pvc data",
        "kubectl delete configmap --all-namespaces "
        "--field-selector=metadata.name=istio-ca-root-cert",
        "kubectl label namespace bookinfo istio-injection-",
    ):
        assert command in fixes
    assert any(fix.startswith("kubectl delete clusterrolebinding istio") for fix in fixes)
    assert "15 CRDs" in found["left-crds"].findings[0].problem


def test_of_another_stack_nothing_is_left(kubectl: Kubectl) -> None:
    kubectl.remove("Deployment", "Pod")
    assert "left-namespaces" not in _found(kubectl, stack="service-mesh/other")


def test_without_a_state_a_namespace_is_not_to_be_deleted_by_hand(kubectl: Kubectl) -> None:
    kubectl.remove("Deployment", "Pod")
    fixes = {fix for one in _found(kubectl)["left-namespaces"].findings for fix in one.fix}
    assert fixes == {"pulumi destroy --stack dev"}


def test_a_pod_that_still_has_a_proxy_is_left(kubectl: Kubectl) -> None:
    kubectl.remove("Deployment")
    assert "details-v1" in _found(kubectl)["left-sidecars"].findings[0].problem


# --- Pulumi --------------------------------------------------------------------------------------


def test_an_interrupted_update_is_fatal(kubectl: Kubectl) -> None:
    urn = "urn:pulumi:dev::service-mesh::kubernetes:core/v1:Service::x"
    state = _state(pending_operations=[{"type": "creating", "resource": {"urn": urn}}])
    problem, fix = _one(kubectl, "state-pending", state=state)
    assert problem == f"an update was interrupted while creating {urn}"
    assert fix == ("pulumi refresh --clear-pending-creates --stack dev",)


def test_what_is_half_deleted_is_to_be_deleted_to_the_end(kubectl: Kubectl) -> None:
    urn = "urn:pulumi:dev::service-mesh::a:b:C$kubernetes:helm.sh/v3:Release::istio-base"
    state = _state(pending_operations=[{"type": "deleting", "resource": {"urn": urn}}])
    problem, fix = _one(kubectl, "state-pending", state=state)
    assert problem == f"an update was interrupted while deleting {urn}"
    assert fix == (f"pulumi destroy --refresh --target '{urn}' --stack dev",)


def test_what_has_replaced_the_half_deleted_is_not_to_be_deleted(kubectl: Kubectl) -> None:
    resources = copy.deepcopy(_RECORDED["state"]["deployment"]["resources"])
    resources[-1]["delete"] = True
    pending = [{"type": "deleting", "resource": {"urn": resources[-1]["urn"]}}]
    state = _state(resources=resources, pending_operations=pending)
    found = _found(kubectl, state=state)
    fixes = [fix for one in found.values() for finding in one.findings for fix in finding.fix]
    assert fixes == [
        "pulumi refresh --clear-pending-creates --stack dev",
        "pulumi up --stack dev",
    ]


def test_what_was_replaced_and_not_deleted_is_a_warning(kubectl: Kubectl) -> None:
    resources = copy.deepcopy(_RECORDED["state"]["deployment"]["resources"])
    resources[-1]["delete"] = True
    _, fix = _one(kubectl, "state-condemned", state=_state(resources=resources))
    assert fix == ("pulumi up --stack dev",)


def test_resources_whose_namespace_is_gone_are_fatal(kubectl: Kubectl) -> None:
    kubectl.remove("Namespace", "Pod", name="bookinfo")
    kubectl.remove("Pod", name="details")
    problem, fix = _one(kubectl, "state-namespaces", state=_state())
    assert problem == "namespace bookinfo is gone, and 2 resources in the state are in it"
    assert fix == ("pulumi refresh --stack dev",)


# --- the command ---------------------------------------------------------------------------------


def _main(kubectl: Kubectl, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(words, kubectl, out), out.getvalue()


def test_exit_codes_say_whether_something_fatal_was_found(empty: Kubectl) -> None:
    assert _main(empty)[0] == 0
    empty.the("Node", "lab")["status"]["conditions"] = []
    assert _main(empty)[0] == 0
    assert _main(empty, "--expect", "installed")[0] == 1


def test_commands_lead_to_the_cluster_that_was_asked(empty: Kubectl) -> None:
    empty.the("Node", "lab")["status"]["conditions"] = []
    _, text = _main(empty, "--context", "my cluster", "--kubeconfig", "k")
    assert "fix: kubectl --context 'my cluster' --kubeconfig k describe node lab" in text
    assert all(argv[:5] == empty.asked[0][:5] for argv in empty.asked)


def test_json_has_the_keys_of_linkerd_check_and_every_finding(empty: Kubectl) -> None:
    empty.forbidden = lambda _: True
    code, text = _main(empty, "-o", "json")
    document = json.loads(text)
    assert code == 1
    assert document["success"] is False
    assert document["phase"] == "absent"
    every = {one["id"]: one for part in document["categories"] for one in part["checks"]}
    one = every["may-change"]
    assert set(one) == {"id", "description", "severity", "result", "error", "findings"}
    assert one["result"] == "error"
    assert len(one["findings"]) > 30
    assert every["state-pending"]["error"] == "no --state was given (pulumi stack export)"


def test_of_many_findings_a_person_sees_the_first_and_each_command_once(empty: Kubectl) -> None:
    empty.forbidden = lambda _: True
    _, text = _main(empty)
    assert text.count("you may not create") == 5
    assert re.search(r"and \d+ more \(-o json\)", text)
    assert text.count("fix: ") == 1
    assert "\nStatus is \N{MULTIPLICATION SIGN}: " in text


def test_an_unknown_phase_is_printed_as_that(kubectl: Kubectl) -> None:
    kubectl.unlisted = {"deployments.apps"}
    out = io.StringIO()
    as_text(_cluster(kubectl), [], out)
    assert out.getvalue().startswith("Kubernetes v1.36.2, Istio unknown\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--istio-version", "2"], "--istio-version 2: not X.Y.Z, as --istio-version 1.31.1"),
        (["--stack", "dev"], "--stack dev: not PROJECT/STACK, as --stack service-mesh/dev"),
        (["--state", "/nowhere"], "--state /nowhere: No such file or directory"),
        (["--state", __file__], "not what `pulumi stack export` writes"),
        (["--expect", "x"], "invalid choice"),
        (["--nothing"], "unrecognized arguments: --nothing; see python -m doctor --help"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(
    empty: Kubectl, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert _main(empty, *words)[0] == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert empty.asked == []


@pytest.mark.parametrize(
    ("done", "message"),
    [
        (subprocess.CompletedProcess([], 1, "", 'error: context "x" does not exist'), "context"),
        (subprocess.CompletedProcess([], 1, '{"clientVersion": {}}', "no"), "does not answer: no"),
        (subprocess.CompletedProcess([], 0, "<html>", ""), "is not JSON"),
    ],
)
def test_a_cluster_that_cannot_be_asked_is_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    done: subprocess.CompletedProcess[str],
    message: str,
) -> None:
    assert main([], lambda *_: done) == 2
    assert message in capsys.readouterr().err


def test_a_machine_without_kubectl_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main([]) == 2
    assert "kubectl is not on the PATH" in capsys.readouterr().err


# --- the table -----------------------------------------------------------------------------------


def test_every_check_has_a_name_of_its_own_and_is_in_the_table() -> None:
    names = [one.id for one in checks.CHECKS]
    assert len(names) == len(set(names))
    files = Path(checks.__file__).parent.glob("*.py")
    functions = {
        node.name
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef)
        and [argument.arg for argument in node.args.args] == ["cluster"]
        and ast.unparse(node.returns or ast.Constant("")) == "Iterator[Finding]"
    }
    assert functions == {getattr(one.run, "__name__", "") for one in checks.CHECKS}


def test_the_annotation_of_a_stack_is_the_components() -> None:
    assert model.STACK_ANNOTATION == kinds.STACK_ANNOTATION
    assert reading.CONTROL_PLANE == kinds.ROOT_NAMESPACE
