"""The dev stack from nothing to nothing and back, in the order in which a person meets it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e

BOOKINFO = {
    "details-v1",
    "productpage-v1",
    "ratings-v1",
    "reviews-v1",
    "reviews-v2",
    "reviews-v3",
}
CLUSTERS_OWN = {"default", "kube-node-lease", "kube-public", "kube-system"}


def test_up_installs_the_mesh_from_nothing(mesh: Mesh) -> None:
    result = mesh.up()
    assert result.changes().keys() == {"created"}
    outputs = json.loads(mesh.pulumi("stack", "output", "--json").out)
    assert outputs["mtls"] == {"bookinfo": "STRICT", "istio-system": "STRICT"}


def test_every_pod_of_bookinfo_was_injected_by_istiod(mesh: Mesh) -> None:
    pods = mesh.get("pods", "-n", "bookinfo")
    found = {
        p["metadata"]["labels"]["app"] + "-" + p["metadata"]["labels"]["version"] for p in pods
    }
    assert found == BOOKINFO
    for pod in pods:
        containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        assert "istio-proxy" in {c["name"] for c in containers}, pod["metadata"]["name"]
        assert pod["metadata"]["labels"]["security.istio.io/tlsMode"] == "istio"


def test_istiod_runs_and_is_not_simulated(mesh: Mesh) -> None:
    (istiod,) = mesh.get("pods", "-n", "istio-system", "-l", "app=istiod")
    assert "service-mesh.lab/simulated" not in istiod["metadata"].get("annotations", {})
    assert istiod["status"]["containerStatuses"][0]["ready"]


def test_istiod_refuses_an_invalid_virtual_service(mesh: Mesh) -> None:
    invalid = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "invalid", "namespace": "bookinfo"},
        "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": ""}}]}]},
    }
    result = mesh.kubectl("apply", "-f", "-", stdin=json.dumps(invalid), ok=False)
    assert result.code != 0
    assert "validation.istio.io" in result.out
    assert "denied" in result.out


def test_up_again_changes_nothing(mesh: Mesh) -> None:
    result = mesh.up("--expect-no-changes")
    assert result.changes().keys() == {"unchanged"}


def test_a_refresh_finds_no_drift_after_istiod_has_patched_its_webhooks(mesh: Mesh) -> None:
    hooks = mesh.get("validatingwebhookconfigurations")
    assert {w["failurePolicy"] for h in hooks for w in h["webhooks"]} == {"Fail"}
    assert all(w["clientConfig"].get("caBundle") for h in hooks for w in h["webhooks"])
    mesh.pulumi("preview", "--refresh", "--expect-no-changes")


def test_the_preview_of_another_mode_shows_that_mode_and_nothing_else(mesh: Mesh) -> None:
    mesh.set("mtlsMode", "PERMISSIVE")
    preview = mesh.pulumi("preview", "--diff")
    assert '"STRICT" => "PERMISSIVE"' in preview.out
    assert preview.changes().get("update") == 1
    mesh.up()
    (policy,) = mesh.get("peerauthentications", "-A")
    assert policy["spec"]["mtls"]["mode"] == "PERMISSIVE"
    mesh.set("mtlsMode", "STRICT")
    assert mesh.up().changes()["updated"] == 1
    (policy,) = mesh.get("peerauthentications", "-A")
    assert policy["spec"]["mtls"]["mode"] == "STRICT"


def test_a_change_inside_a_release_is_reviewed_object_by_object(mesh: Mesh) -> None:
    mesh.set("traceSampling", "10")
    document = mesh.pulumi("preview", "--json", "--show-sames").out
    path = mesh.stack.config.parent / "preview.json"  # type: ignore[union-attr]  # on the lab
    path.write_text(document[document.index("{") :])
    review = mesh.run(sys.executable, "-m", "review", str(path), *mesh.stack.cluster()).out
    assert "apps/v1 Deployment istio-system/istiod" in review
    assert "PILOT_TRACE_SAMPLING" in review
    mesh.set("traceSampling", "profile")


def test_destroy_leaves_only_what_the_cluster_came_with(mesh: Mesh) -> None:
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    namespaces = {n["metadata"]["name"] for n in mesh.get("namespaces")}
    assert namespaces == CLUSTERS_OWN
    assert mesh.get("crds") == []
    for kind in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations"):
        assert mesh.get(kind) == []
    for kind in ("clusterroles", "clusterrolebindings"):
        assert [o for o in mesh.get(kind) if "istio" in o["metadata"]["name"]] == []


def test_up_after_destroy_works_with_a_namespace_that_is_adopted_and_given_back(mesh: Mesh) -> None:
    mesh.set("namespace", "default")
    mesh.set("adoptNamespace", "true")
    mesh.up()
    (default,) = [n for n in mesh.get("namespaces") if n["metadata"]["name"] == "default"]
    assert default["metadata"]["labels"]["istio-injection"] == "enabled"
    assert len(mesh.get("pods", "-n", "default")) == len(BOOKINFO)
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    (default,) = [n for n in mesh.get("namespaces") if n["metadata"]["name"] == "default"]
    assert "istio-injection" not in default["metadata"]["labels"]
    assert mesh.get("deployments", "-n", "default") == []


def test_crds_that_are_kept_do_not_stop_the_next_up(mesh: Mesh) -> None:
    mesh.set("namespace", "bookinfo")
    mesh.set("adoptNamespace", "false")
    mesh.set("keepCrds", "true")
    mesh.up()
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    kept = {c["metadata"]["name"] for c in mesh.get("crds")}
    assert "peerauthentications.security.istio.io" in kept
    mesh.set("keepCrds", "false")
    mesh.up()
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    assert mesh.get("crds") == []


def test_a_namespace_of_somebody_else_is_refused_before_anything_is_made(mesh: Mesh) -> None:
    mesh.kubectl("create", "namespace", "bookinfo")
    try:
        result = mesh.pulumi("up", "--yes", "--skip-preview", ok=False)
        assert result.code != 0
        assert "adoptNamespace" in result.out
        assert "Traceback" not in result.out
        found = {n["metadata"]["name"] for n in mesh.get("namespaces")}
        assert found == CLUSTERS_OWN | {"bookinfo"}
    finally:
        mesh.kubectl("delete", "namespace", "bookinfo")
