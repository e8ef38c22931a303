"""The lab's settings reach the lab's own file and nobody else's."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lab import stack
from lab.paths import ROOT, LabPaths
from lab.summary import text

if TYPE_CHECKING:
    from pathlib import Path


def test_the_overlay_names_only_settings_that_exist() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    overlay = stack.overlay(LabPaths())
    assert {key.removeprefix("service-mesh:") for key in overlay} <= declared.keys()


def test_the_overlay_names_no_path_of_this_machine() -> None:
    assert not [v for v in stack.overlay(LabPaths()).values() if str(v).startswith("/")]


def test_the_committed_stack_names_no_cluster_so_that_the_lab_is_used() -> None:
    assert stack.needs_lab("dev")


def test_a_stack_with_a_context_needs_no_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "ROOT", tmp_path)
    (tmp_path / "Pulumi.dev.yaml").write_text("config: {service-mesh:kubeContext: kind-mesh}")
    assert not stack.needs_lab("dev")


def test_a_passphrase_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    stack._backend(tmp_path)
    passphrase = tmp_path / "passphrase"
    first = passphrase.read_text()
    assert len(first) >= 24
    assert stat.S_IMODE(passphrase.stat().st_mode) == 0o600
    stack._backend(tmp_path)
    assert passphrase.read_text() == first


def _pod(namespace: str, *, ready: bool, sidecar: bool, simulated: bool) -> dict[str, Any]:
    annotations = {}
    if sidecar:
        annotations["sidecar.istio.io/status"] = "{}"
    if simulated:
        annotations["service-mesh.lab/simulated"] = "no process"
    return {
        "metadata": {"namespace": namespace, "annotations": annotations},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def test_the_summary_counts_what_is_ready_injected_and_simulated() -> None:
    outputs = {
        "istioVersion": "1.31.0",
        "profile": "demo",
        "kubeContext": "lab",
        "mtls": {"bookinfo": "STRICT", "istio-system": "PERMISSIVE"},
        "productpage": "kubectl port-forward ...",
    }
    pods = [
        _pod("bookinfo", ready=True, sidecar=True, simulated=True),
        _pod("bookinfo", ready=False, sidecar=True, simulated=False),
        _pod("istio-system", ready=True, sidecar=False, simulated=False),
    ]
    lines = {line.split()[0]: line.split() for line in text(outputs, pods).splitlines() if line}
    assert lines["bookinfo"] == ["bookinfo", "STRICT", "1", "of", "2", "2", "1"]
    assert lines["istio-system"] == ["istio-system", "PERMISSIVE", "1", "of", "1", "0", "0"]
    assert "kubectl port-forward" in text(outputs, pods)
