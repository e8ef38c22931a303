"""The lab's settings reach the lab's own file and nobody else's."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lab import stack
from lab.lifecycle import down
from lab.paths import CONTEXT, ROOT, LabPaths
from lab.summary import text

if TYPE_CHECKING:
    from pathlib import Path


def test_the_overlay_names_only_settings_that_exist() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    overlay = stack.overlay(LabPaths())
    assert {key.removeprefix("service-mesh:") for key in overlay} <= declared.keys()


def test_the_overlay_names_no_path_of_this_machine() -> None:
    assert not [v for v in stack.overlay(LabPaths()).values() if str(v).startswith("/")]


def test_an_example_is_given_a_labs_settings_under_its_own_name_and_from_where_it_lies() -> None:
    program = ROOT / "examples" / "two-services"
    project = yaml.safe_load((program / "Pulumi.yaml").read_text())
    paths = LabPaths()
    overlay = stack.overlay(paths, project["name"], program)
    assert {key.removeprefix("two-services:") for key in overlay} == project["config"].keys()
    assert overlay["two-services:kubeconfig"] == "../../.lab/kubeconfig"
    assert (program / overlay["two-services:chartSource"]).resolve() == paths.charts


def test_kubectl_finds_the_cluster_of_an_example_from_the_checkout(tmp_path: Path) -> None:
    config = tmp_path / "Pulumi.lab.yaml"
    program = ROOT / "examples" / "two-services"
    needed = stack.overlay(LabPaths(), "two-services", program)
    config.write_text(yaml.safe_dump({"config": needed}))
    opened = stack.Stack(
        name="lab", variables={}, config=config, program=program, project="two-services"
    )
    assert opened.cluster() == ["--context", CONTEXT, "--kubeconfig", ".lab/kubeconfig"]


def test_the_committed_stack_names_no_cluster_so_that_the_lab_is_used() -> None:
    assert stack.needs_lab("dev")


def test_a_stack_with_a_context_needs_no_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "ROOT", tmp_path)
    (tmp_path / "Pulumi.dev.yaml").write_text("config: {service-mesh:kubeContext: kind-mesh}")
    assert not stack.needs_lab("dev")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setattr(stack, "ROOT", tmp_path)
    return Checkout(tmp_path)


class Checkout:
    """A checkout with a lab, and somebody who calls `pulumi config` on it."""

    def __init__(self, root: Path) -> None:
        self.own = root / "Pulumi.dev.yaml"
        self.paths = LabPaths(state=root / ".lab")
        self.paths.state.mkdir()
        self.commit(profile="demo", keepCrds=False, mtlsHosts=["reviews"])

    def commit(self, **settings: object) -> None:
        named = {f"service-mesh:{key}": value for key, value in settings.items()}
        self.own.write_text(yaml.safe_dump({"config": named}))

    def open(self) -> dict[str, Any]:
        """The settings that the CLI finds."""
        return self._config(stack.write_settings("dev", self.paths))

    def set(self, key: str, value: object) -> None:
        """`pulumi config set`, or `rm` with None: the CLI adds its salt and makes strings."""
        file = self.paths.state / "Pulumi.dev.yaml"
        settings = {**self._config(file), f"service-mesh:{key}": value}
        kept = {
            k: str(v).lower() if isinstance(v, bool) else v
            for k, v in settings.items()
            if v is not None
        }
        file.write_text(yaml.safe_dump({"config": kept, "encryptionsalt": "v1:x"}))

    @staticmethod
    def _config(file: Path) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(file.read_text())["config"]
        return found


def test_what_is_set_or_removed_on_the_lab_lasts(checkout: Checkout) -> None:
    checkout.open()
    checkout.set("mtlsMode", "PERMISSIVE")
    checkout.set("telemetry", value=True)
    checkout.set("mtlsHosts", None)
    for _ in range(2):
        found = checkout.open()
        assert found["service-mesh:mtlsMode"] == "PERMISSIVE"
        assert found["service-mesh:telemetry"] == "true"
        assert "service-mesh:mtlsHosts" not in found
        assert found["service-mesh:profile"] == "demo"


def test_a_change_of_the_stacks_own_file_reaches_the_lab(checkout: Checkout) -> None:
    checkout.open()
    checkout.set("mtlsMode", "PERMISSIVE")
    checkout.commit(profile="default", keepCrds=True, mtlsMode="STRICT")
    found = checkout.open()
    assert found["service-mesh:keepCrds"] is True, "which the CLI had only written anew"
    assert found["service-mesh:profile"] == "default"
    assert "service-mesh:mtlsHosts" not in found
    assert found["service-mesh:mtlsMode"] == "PERMISSIVE", "the lab's own setting lasts"


def test_a_lab_that_is_gone_leaves_no_setting(checkout: Checkout) -> None:
    checkout.open()
    checkout.set("mtlsMode", "PERMISSIVE")
    down(checkout.paths)
    assert not [*checkout.paths.state.glob("Pulumi*")]
    assert "service-mesh:mtlsMode" not in checkout.open()


def test_a_stack_on_the_lab_cannot_be_led_to_another_cluster(checkout: Checkout) -> None:
    checkout.open()
    checkout.set("kubeContext", "prod")
    checkout.set("kubeconfig", None)
    found = checkout.open()
    assert found["service-mesh:kubeContext"] == CONTEXT
    assert found["service-mesh:kubeconfig"] == ".lab/kubeconfig"


def test_the_salt_of_the_stacks_secrets_is_kept(checkout: Checkout) -> None:
    checkout.open()
    checkout.set("profile", "minimal")
    checkout.open()
    text = (checkout.paths.state / "Pulumi.dev.yaml").read_text()
    assert yaml.safe_load(text)["encryptionsalt"] == "v1:x"


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
