"""`python -m doctor` on the lab: what is wrong is found, and its hints really mend it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e


class Doctor:
    """The command on the stack's cluster, with the stack's state."""

    def __init__(self, mesh: Mesh, folder: Path) -> None:
        self.mesh = mesh
        self.state = folder / "state.json"

    def __call__(self, *, code: int) -> dict[str, dict[str, Any]]:
        """What is not fine, by the check's name."""
        self.mesh.pulumi("stack", "export", "--file", str(self.state))
        words = ("--state", str(self.state), "--stack", "service-mesh/dev", "-o", "json")
        cluster = self.mesh.stack.cluster()
        said = self.mesh.run(sys.executable, "-m", "doctor", *cluster, *words, ok=False)
        assert said.code == code, said.out
        every = [one for part in json.loads(said.out)["categories"] for one in part["checks"]]
        assert not [one for one in every if one["result"] == "skipped" and one["id"] in _ALWAYS]
        return {one["id"]: one for one in every if one["result"] in ("warning", "error")}

    def mend(self, found: dict[str, Any]) -> None:
        """Run a check's hints, as a person would."""
        for command in dict.fromkeys(fix for one in found["findings"] for fix in one["fix"]):
            self.mesh.run("bash", "-c", f"set -o pipefail; {command}")


_ALWAYS = ("may-change", "as-expected", "webhooks-orphaned", "namespaces-terminating")
"""Checks that can be judged on the lab, whatever is installed."""


@pytest.fixture
def doctor(mesh: Mesh, tmp_path: Path) -> Doctor:
    mesh.reset_settings()
    return Doctor(mesh, tmp_path)


def test_an_installed_mesh_is_fine_and_needs_no_flag(mesh: Mesh, doctor: Doctor) -> None:
    mesh.up()
    assert doctor(code=0) == {}
    words = ("--state", str(mesh.paths.state), "doctor", "--stack", mesh.stack.name)
    said = mesh.run(sys.executable, "-m", "lab", *words).out
    assert "Istio installed" in said
    # the state and the version were handed over
    assert "skipped, " not in said


def test_a_control_plane_that_somebody_deleted_is_named_and_comes_back(
    mesh: Mesh, doctor: Doctor
) -> None:
    mesh.up()
    where = ("--namespace", "istio-system")
    mesh.kubectl(*where, "delete", "deployment/istiod", "service/istiod")
    refused = mesh.kubectl(*where, "rollout", "restart", "deployment/istiod", ok=False)
    assert "not found" in refused.out
    found = doctor(code=1)
    assert set(found) == {"as-expected", "helm-objects", "webhooks-orphaned"}
    assert "Deployment istio-system/istiod, Service" in found["helm-objects"]["error"]
    doctor.mend(found["helm-objects"])
    mesh.kubectl(*where, "rollout", "status", "deployment/istiod", "--timeout=120s")
    assert not {*found, "webhooks-ca"} & doctor(code=0).keys()
    # with one injector more nothing is injected twice, and Pulumi sees no change
    mesh.pulumi("preview", "--expect-no-changes")


def test_an_orphaned_webhook_blocks_and_its_hint_unblocks(mesh: Mesh, doctor: Doctor) -> None:
    hook = {
        "name": "gone.example.com",
        "clientConfig": {"service": {"namespace": "default", "name": "gone"}},
        "rules": [
            {
                "operations": ["CREATE"],
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["configmaps"],
            }
        ],
        # nobody but this test may be blocked
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    made = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "orphan"},
        "webhooks": [hook],
    }
    mesh.kubectl("create", "--filename", "-", stdin=json.dumps(made))
    create = ("--namespace", "default", "create", "configmap", "probe", "--dry-run=server")
    assert mesh.kubectl(*create, ok=False).code
    orphaned = doctor(code=1)["webhooks-orphaned"]
    assert "ValidatingWebhookConfiguration orphan asks Service default/gone" in orphaned["error"]
    doctor.mend(orphaned)
    assert "webhooks-orphaned" not in doctor(code=0)
    mesh.kubectl(*create)


def test_a_namespace_that_is_stuck_is_named_with_what_holds_it(mesh: Mesh, doctor: Doctor) -> None:
    mesh.kubectl("create", "namespace", "stuck")
    held = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": "stuck", "finalizers": ["example.com/hold"]},
    }
    mesh.kubectl("create", "--filename", "-", stdin=json.dumps(held))
    mesh.kubectl("delete", "namespace", "stuck", "--wait=false")
    remains = "--for=condition=NamespaceContentRemaining"
    mesh.kubectl("wait", remains, "namespace/stuck", "--timeout=60s")
    stuck = doctor(code=1)["namespaces-terminating"]
    assert stuck["error"].endswith("held by ConfigMap held (example.com/hold)")
    doctor.mend(stuck)
    assert "namespaces-terminating" not in doctor(code=0)


def test_what_a_destroy_leaves_is_listed_and_its_hints_leave_an_empty_cluster(
    mesh: Mesh, doctor: Doctor
) -> None:
    mesh.up()
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    found = doctor(code=0)
    assert "istio-ca-root-cert is left in default" in found["left-configmaps"]["error"]
    assert {one["result"] for one in found.values()} == {"warning"}
    for one in found.values():
        doctor.mend(one)
    assert doctor(code=0) == {}
