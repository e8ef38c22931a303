"""Another Istio: a second istiod beside the first and back, then another version in its place."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lab.playground import Playground

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Mesh, Result

pytestmark = pytest.mark.e2e

CANARY = "istiod-canary"
REVISION = "revisions[0].name", "canary"
NAMESPACE = "bookinfo"
OLD, NEW = "details-v1", "productpage-v1"
KINDS = (
    "deployments",
    "services",
    "configmaps",
    "serviceaccounts",
    "roles",
    "clusterroles",
    "clusterrolebindings",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
)


@pytest.fixture(scope="module")
def play(mesh: Mesh) -> Iterator[Playground]:
    """The stack as it is, and nothing in the end."""
    mesh.reset_settings()
    mesh.up()
    yield Playground(mesh.stack, mesh.paths)
    mesh.reset_settings()
    mesh.pulumi("destroy", "--yes", "--skip-preview")


def put(mesh: Mesh, path: str, value: str) -> None:
    mesh.pulumi("config", "set", "--path", path, value)


def deployment(mesh: Mesh, name: str) -> dict[str, Any] | None:
    found = mesh.get("deployments", "-n", "istio-system")
    return next((one for one in found if one["metadata"]["name"] == name), None)


def pods(play: Playground, app: str) -> list[dict[str, Any]]:
    name, _, version = app.partition("-")
    return play.pods(NAMESPACE, f"app={name},version={version}")


def istiod_of(play: Playground, app: str) -> str:
    """The istiod that the running proxy of an application is told by."""
    [pod] = pods(play, app)
    words = ("exec", pod["metadata"]["name"], "-c", "istio-proxy", "--", "pilot-agent")
    dump = json.loads(play.kubectl("-n", NAMESPACE, *words, "request", "GET", "config_dump"))
    [said] = [one["bootstrap"] for one in dump["configs"] if "bootstrap" in one]
    return str(said["node"]["metadata"]["PROXY_CONFIG"]["discoveryAddress"])


def restart(play: Playground, *apps: str) -> None:
    for app in apps:
        play.kubectl("-n", NAMESPACE, "rollout", "restart", f"deployment/{app}")
    play.ready(NAMESPACE, *apps)
    for app in apps:
        name, _, version = app.partition("-")
        [pod] = pods(play, app)
        play.kubectl(
            "-n", NAMESPACE, "wait", "pod", "--for=delete", "--timeout=60s",
            "-l", f"app={name},version={version}",
            "--field-selector", f"metadata.name!={pod['metadata']['name']}",
        )  # fmt: skip


def verify(mesh: Mesh) -> Result:
    words = ("-m", "lab", "verify", "--stack", mesh.stack.name)
    return mesh.run(sys.executable, *words, LAB_STATE=str(mesh.paths.state))


def named_after_the_canary(mesh: Mesh) -> list[str]:
    return [
        f"{kind}/{one['metadata']['name']}"
        for kind in KINDS
        for one in mesh.get(kind, "-A")
        if "canary" in one["metadata"]["name"]
    ]


def test_a_revision_comes_beside_the_default_istiod_and_changes_nothing_else(
    mesh: Mesh, play: Playground
) -> None:
    before = deployment(mesh, "istiod")
    assert before
    put(mesh, *REVISION)
    put(mesh, "revisions[0].version", "1.31.0")
    changes = mesh.up().changes()
    assert changes.keys() == {"created", "unchanged"}
    assert changes["created"] == 1
    beside, after = deployment(mesh, CANARY), deployment(mesh, "istiod")
    assert beside
    assert beside["status"]["readyReplicas"] == 1
    assert after
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert istiod_of(play, OLD) == "istiod.istio-system.svc:15012"
    mesh.pulumi("preview", "--refresh", "--expect-no-changes")
    assert json.loads(mesh.pulumi("stack", "output", "revisions", "--json").out) == {
        "default": "1.31.0: namespace bookinfo, gateways",
        "canary": "1.31.0: nothing of this stack",
    }


def test_the_namespace_goes_over_by_its_label_and_who_stays_behind_is_named(
    mesh: Mesh, play: Playground
) -> None:
    mesh.set("namespaceRevision", "canary")
    changed = mesh.up()
    assert changed.changes()["updated"] == 1
    assert "6 of its 6 proxies still ask another" in changed.out
    [labels] = [
        one["metadata"]["labels"]
        for one in mesh.get("namespaces")
        if one["metadata"]["name"] == NAMESPACE
    ]
    assert labels["istio.io/rev"] == "canary"
    assert "istio-injection" not in labels
    restart(play, NEW)
    assert istiod_of(play, NEW) == f"{CANARY}.istio-system.svc:15012"
    assert istiod_of(play, OLD) == "istiod.istio-system.svc:15012"
    late = mesh.pulumi("preview", "--expect-no-changes").out
    assert "5 of its 6 proxies still ask another" in late
    assert f"{NAMESPACE}/{OLD}" in late
    assert f"-n {NAMESPACE} rollout restart deployment" in late


def test_proxies_of_both_istiods_speak_mutual_tls(mesh: Mesh, play: Playground) -> None:
    revisions = {
        pod["metadata"]["annotations"]["istio.io/rev"] for pod in play.pods(NAMESPACE, "app")
    }
    assert revisions == {"default", "canary"}
    proof = verify(mesh).out
    [edge] = [one for one in proof.splitlines() if "productpage v1   details" in one]
    assert "ISTIO_MUTUAL" in edge
    assert "✅" in edge


def test_an_istiod_with_proxies_stays(mesh: Mesh, play: Playground) -> None:
    mesh.pulumi("config", "rm", "revisions")
    mesh.set("namespaceRevision", "")
    [pod] = pods(play, NEW)
    for verb in (["preview"], ["up", "--yes", "--skip-preview"]):
        refused = mesh.pulumi(*verb, ok=False)
        assert refused.code
        assert "Traceback" not in refused.out
        assert f"{NAMESPACE}/{pod['metadata']['name']}: canary" in refused.out
    assert deployment(mesh, CANARY)


def test_back_again_and_the_revision_leaves_nothing(mesh: Mesh, play: Playground) -> None:
    put(mesh, *REVISION)
    put(mesh, "revisions[0].version", "1.31.0")
    assert "1 of its 6 proxies still ask another" in mesh.up().out
    restart(play, NEW)
    assert istiod_of(play, NEW) == "istiod.istio-system.svc:15012"
    assert named_after_the_canary(mesh)
    mesh.pulumi("config", "rm", "revisions")
    changes = mesh.up().changes()
    assert changes["deleted"] == 1
    assert named_after_the_canary(mesh) == []
    mesh.pulumi("preview", "--refresh", "--expect-no-changes")
    assert "✅" in verify(mesh).out


@pytest.fixture(scope="module")
def charts(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's charts as the next minor release would have them."""
    folder = tmp_path_factory.mktemp("next") / "charts"
    shutil.copytree(mesh.paths.charts, folder)
    for file in folder.rglob("Chart.yaml"):
        chart = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({**chart, "version": "1.32.0", "appVersion": "1.32.0"}))
    return folder


@pytest.mark.usefixtures("play")
@pytest.mark.parametrize("version", ["1.33.0", "1.30.0"], ids=["skipped", "older"])
def test_a_release_that_istio_does_not_go_to_is_refused(mesh: Mesh, version: str) -> None:
    mesh.set("istioVersion", version)
    refused = mesh.pulumi("preview", ok=False)
    assert refused.code
    assert f'istioVersion is "{version}"' in refused.out
    assert "the istiod that runs is 1.31.0" in refused.out


def test_the_next_release_is_previewed_object_by_object_and_replaces_nothing(
    mesh: Mesh, play: Playground, charts: Path
) -> None:
    mesh.set("istioVersion", "1.32.0")
    mesh.set("chartSource", str(charts))
    document = mesh.pulumi("preview", "--json").out
    steps = json.loads(document[document.index("{") :])["steps"]
    releases = {one["urn"].rpartition("::")[2] for one in steps if one["op"] == "update"}
    assert releases == {"istio-base", "istio-istiod", "ingress-release", "egress-release"}
    assert {one["op"] for one in steps} <= {"update", "same"}
    words = ("-m", "lab", "preview", "--stack", mesh.stack.name)
    shown = mesh.run(sys.executable, *words, LAB_STATE=str(mesh.paths.state)).out
    assert "Deployment istio-system/istiod" in shown
    assert "pilot:1.32.0" in shown

    [before] = pods(play, OLD)
    assert mesh.up().changes().keys() == {"updated", "unchanged"}
    after = deployment(mesh, "istiod")
    assert after
    assert after["spec"]["template"]["spec"]["containers"][0]["image"].endswith("pilot:1.32.0")
    assert after["metadata"]["labels"]["app.kubernetes.io/version"] == "1.32.0"
    [same] = pods(play, OLD)
    assert same["metadata"]["uid"] == before["metadata"]["uid"], "a proxy waits for its restart"
    mesh.pulumi("preview", "--refresh", "--expect-no-changes")
    assert "✅" in verify(mesh).out


@pytest.mark.usefixtures("play")
def test_destroy_leaves_nothing_of_an_istiod_beside(mesh: Mesh) -> None:
    put(mesh, *REVISION)
    put(mesh, "revisions[0].version", "1.32.0")
    mesh.set("namespaceRevision", "canary")
    mesh.up()
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    assert named_after_the_canary(mesh) == []
    assert mesh.get("crds") == []
