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
GATEWAYS = ("istio-egressgateway", "istio-ingressgateway")
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


def gateways(play: Playground) -> set[str]:
    """The revisions that the gateways were injected by, once their rollouts are over."""
    for one in GATEWAYS:
        play.kubectl("-n", "istio-system", "rollout", "status", f"deployment/{one}")
    found = play.pods("istio-system", "istio in (ingressgateway, egressgateway)")
    alive = [one for one in found if "deletionTimestamp" not in one["metadata"]]
    assert len(alive) == 2
    return {one["metadata"]["annotations"]["istio.io/rev"] for one in alive}


def tag(mesh: Mesh) -> dict[str, Any]:
    [found] = [
        one
        for one in mesh.get("mutatingwebhookconfigurations")
        if one["metadata"]["labels"].get("istio.io/tag") == "stable"
    ]
    return found


def without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: without(inner, keys) for key, inner in value.items() if key not in keys}
    return [without(inner, keys) for inner in value] if isinstance(value, list) else value


def is_the_charts(mesh: Mesh, found: dict[str, Any], *revision: str) -> None:
    """Whether a tag is what chart `istiod` would make of it."""
    words = ("-s", "templates/revision-tags-mwc.yaml", "--set", "revisionTags={stable}", *revision)
    chart = mesh.paths.charts / "istio-control" / "istio-discovery"
    said = mesh.run("helm", "template", "istiod", str(chart), "-n", "istio-system", *words).out
    [theirs] = [one for one in yaml.safe_load_all(said) if one]
    assert found["metadata"]["name"] == theirs["metadata"]["name"]
    assert found["metadata"]["labels"].items() <= theirs["metadata"]["labels"].items()
    # istiod's, and the API server's defaults
    beside = {"caBundle", "matchPolicy", "timeoutSeconds", "scope"}
    assert without(found["webhooks"], beside) == theirs["webhooks"]


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


def test_a_tag_is_the_charts_object_and_changes_nobodys_istiod(
    mesh: Mesh, play: Playground
) -> None:
    put(mesh, "revisionTags.stable", "default")
    mesh.set("namespaceRevision", "stable")
    changed = mesh.up()
    assert changed.changes() == {
        "created": 2,
        "updated": 1,
        "unchanged": changed.changes()["unchanged"],
    }
    assert "until they are restarted" not in changed.out
    is_the_charts(mesh, tag(mesh))
    listed = mesh.run("istioctl", "tag", "list").out.split()
    assert listed[-3:] == ["stable", "default", NAMESPACE]
    restart(play, OLD)
    assert istiod_of(play, OLD) == "istiod.istio-system.svc:15012"
    mesh.pulumi("preview", "--refresh", "--expect-no-changes")


def test_a_tag_moves_in_place_and_pods_go_over_when_restarted(mesh: Mesh, play: Playground) -> None:
    put(mesh, *REVISION)
    put(mesh, "revisions[0].version", "1.31.0")
    mesh.up()
    was, pod = tag(mesh), pods(play, OLD)
    put(mesh, "revisionTags.stable", "canary")
    moved = mesh.up()
    assert moved.changes().keys() == {"updated", "unchanged"}
    assert moved.changes()["updated"] == 1
    assert "6 of its 6 proxies still ask another" in moved.out
    now = tag(mesh)
    assert now["metadata"]["uid"] == was["metadata"]["uid"]
    is_the_charts(mesh, now, "--set", "revision=canary")
    assert [one["metadata"]["uid"] for one in pods(play, OLD)] == [pod[0]["metadata"]["uid"]]
    restart(play, NEW)
    assert istiod_of(play, NEW) == f"{CANARY}.istio-system.svc:15012"
    assert istiod_of(play, OLD) == "istiod.istio-system.svc:15012"
    mesh.pulumi("preview", "--refresh", "--expect-no-changes")
    assert json.loads(mesh.pulumi("stack", "output", "revisions", "--json").out) == {
        "default": "1.31.0: gateways",
        "canary": "1.31.0: tag stable, namespace bookinfo",
    }


def test_gateways_go_over_by_the_tag(mesh: Mesh, play: Playground) -> None:
    assert gateways(play) == {"default"}
    mesh.set("gatewayRevision", "stable")
    changed = mesh.up()
    assert changed.changes()["updated"] == 2
    assert "the gateways belong" not in changed.out
    assert gateways(play) == {"canary"}
    mesh.pulumi("preview", "--refresh", "--expect-no-changes")
    assert "✅" in verify(mesh).out


def test_an_istiod_and_a_tag_that_others_ask_for_stay(mesh: Mesh, play: Playground) -> None:
    mesh.run("istioctl", "tag", "set", "prod", "--revision", "canary")
    mesh.kubectl("create", "namespace", "pay")
    mesh.kubectl("label", "namespace", "pay", "istio.io/rev=stable")
    try:
        mesh.pulumi("config", "rm", "revisions")
        mesh.pulumi("config", "rm", "revisionTags")
        mesh.set("namespaceRevision", "")
        mesh.set("gatewayRevision", "")
        refused = mesh.pulumi("preview", ok=False)
        [pod] = pods(play, NEW)
        assert refused.code
        assert "Traceback" not in refused.out
        for said in (
            "revisionTags is without stable",
            "namespace pay: istio.io/rev=stable",
            "revisions is without canary",
            f"{NAMESPACE}/{pod['metadata']['name']}: canary",
            "istio-system/istio-egressgateway-",
            "tag prod: no namespace",
        ):
            assert said in refused.out
        put(mesh, "revisionTags.prod", "default")
        taken = mesh.pulumi("preview", ok=False).out
        assert "revisionTags has prod" in taken
        # what the error says
        mesh.run("istioctl", "tag", "remove", "prod", "-y")
        assert "revisionTags has prod" not in mesh.pulumi("preview", ok=False).out
    finally:
        mesh.kubectl("delete", "namespace", "pay")


def test_back_by_the_tag_and_it_leaves_nothing(mesh: Mesh, play: Playground) -> None:
    mesh.pulumi("config", "rm", "revisionTags")
    put(mesh, *REVISION)
    put(mesh, "revisions[0].version", "1.31.0")
    put(mesh, "revisionTags.stable", "default")
    mesh.set("namespaceRevision", "stable")
    mesh.set("gatewayRevision", "stable")
    moved = mesh.up()
    assert moved.changes()["updated"] == 1
    assert "1 of its 6 proxies still ask another" in moved.out
    assert "the gateways belong to istiod default, and 2 of their 2 proxies" in moved.out
    restart(play, NEW)
    # what the warning says
    play.kubectl("-n", "istio-system", "rollout", "restart", "deployment", *GATEWAYS)
    assert gateways(play) == {"default"}
    assert "until they are restarted" not in mesh.pulumi("preview", "--expect-no-changes").out
    for key in ("revisions", "revisionTags"):
        mesh.pulumi("config", "rm", key)
    mesh.set("namespaceRevision", "")
    mesh.set("gatewayRevision", "")
    assert mesh.up().changes()["deleted"] == 3
    assert named_after_the_canary(mesh) == []
    [left] = mesh.get("mutatingwebhookconfigurations")
    assert left["metadata"]["name"] == "istio-sidecar-injector"
    mesh.pulumi("preview", "--refresh", "--expect-no-changes")


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


def test_proxies_of_the_last_release_are_named_and_hold_up_the_one_after(
    mesh: Mesh, play: Playground
) -> None:
    late = mesh.pulumi("preview", "--expect-no-changes").out
    assert "6 of its 6 proxies are older than 1.32.0" in late
    restart(play, OLD)
    assert "5 of its 6 proxies are older than 1.32.0" in mesh.pulumi("preview").out
    mesh.set("istioVersion", "1.33.0")
    refused = mesh.pulumi("preview", ok=False)
    mesh.set("istioVersion", "1.32.0")
    assert refused.code
    assert "1.32.Z while 5 proxies are older than that" in refused.out
    [pod] = pods(play, NEW)
    assert f"{NAMESPACE}/{pod['metadata']['name']}: 1.31.0" in refused.out
    assert f"{NAMESPACE}/{OLD}" not in refused.out


@pytest.mark.usefixtures("play")
def test_destroy_leaves_nothing_of_an_istiod_beside(mesh: Mesh) -> None:
    put(mesh, *REVISION)
    put(mesh, "revisions[0].version", "1.32.0")
    put(mesh, "revisionTags.stable", "canary")
    mesh.set("namespaceRevision", "stable")
    mesh.up()
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    assert mesh.get("mutatingwebhookconfigurations") == []
    assert named_after_the_canary(mesh) == []
    assert mesh.get("crds") == []
