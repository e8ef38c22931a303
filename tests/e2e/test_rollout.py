"""STRICT without an outage: who would be cut off stops the preview, and nobody is in the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from lab.playground import Playground, namespace, workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Mesh, Result

pytestmark = pytest.mark.e2e

MESH, OLD = "rollout", "rollout-old"
CRON = "deployment/cron"
URL = f"http://server.{MESH}:8000/"
INJECT = "sidecar.istio.io/inject"
CAUSES = {
    "the client has no proxy": f"{OLD}/cron",
    f"DestinationRule {MESH}/server sets tls": f"{MESH}/client",
    "headless or passthrough with an endpoint that has no sidecar": f"{MESH}/client",
}
"""Why a call would fail, and a client that makes it."""


def _rule() -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "server", "namespace": MESH},
        "spec": {"host": "server", "trafficPolicy": {"tls": {"mode": "DISABLE"}}},
    }


def _headless() -> list[dict[str, Any]]:
    """A headless service of two pods, one of which has no sidecar."""
    account, deployment, service = workload("peer", MESH, image="echo")
    service["spec"]["clusterIP"] = "None"
    _, bare, _ = workload("bare", MESH, image="echo")
    template = bare["spec"]["template"]
    template["spec"]["serviceAccountName"] = "peer"
    for labels in (template["metadata"]["labels"], bare["spec"]["selector"]["matchLabels"]):
        labels |= {"app": "peer", "part": "bare"}
    template["metadata"]["labels"][INJECT] = "false"
    for labels in (
        deployment["spec"]["template"]["metadata"]["labels"],
        deployment["spec"]["selector"]["matchLabels"],
    ):
        labels["part"] = "whole"
    return [account, deployment, service, bare]


@pytest.fixture(scope="module")
def play(mesh: Mesh) -> Iterator[Playground]:
    """The stack at its first stage, a server and a client in its mesh, and a client outside."""
    mesh.reset_settings()
    permissive(mesh)
    mesh.up()
    play = Playground(mesh.stack, mesh.paths)
    play.apply(namespace(MESH, injected=True), namespace(OLD, injected=False))
    play.apply(*workload("server", MESH, image="echo"), *workload("client", MESH))
    play.apply(*workload("cron", OLD))
    play.ready(MESH, "server", "client")
    play.ready(OLD, "cron")
    yield play
    play.delete_namespaces([MESH, OLD])
    mesh.reset_settings()
    mesh.pulumi("destroy", "--yes", "--skip-preview")


def permissive(mesh: Mesh) -> None:
    mesh.set("mtlsMode", "PERMISSIVE")
    mesh.set("mtlsPermissiveUntil", "2999-12-31")


def strict(mesh: Mesh) -> None:
    mesh.set("mtlsMode", "STRICT")
    mesh.pulumi("config", "rm", "mtlsPermissiveUntil")


def tlscheck(mesh: Mesh, *words: str) -> Result:
    return mesh.run(sys.executable, "-m", "tlscheck", *words, *mesh.stack.cluster(), ok=False)


def mode(mesh: Mesh) -> str:
    found = mesh.get("peerauthentications", "-n", "istio-system")
    return str(found[0]["spec"]["mtls"]["mode"])


def test_the_first_stage_keeps_to_the_guard_rails(mesh: Mesh, play: Playground) -> None:
    assert mode(mesh) == "PERMISSIVE"
    assert play.get(OLD, CRON, URL).status == 200
    assert "✅ service-mesh@v" in mesh.pulumi("preview", "--policy-pack", "policy").out


def test_strict_is_refused_while_it_would_cut_somebody_off(mesh: Mesh, play: Playground) -> None:
    play.apply(_rule(), *_headless())
    play.ready(MESH, "peer", "bare")
    play.eventually(MESH, "deployment/client", URL, refused=False)
    strict(mesh)
    try:
        for verb in (["preview"], ["up", "--yes", "--skip-preview"]):
            refused = mesh.pulumi(*verb, ok=False)
            assert refused.code, refused.out
            assert "Traceback" not in refused.out
            for cause, client in CAUSES.items():
                [line] = [one for one in refused.out.splitlines() if cause in one]
                assert client in line.partition(" -> ")[0]
            assert "rollout restart deployment/cron" in refused.out
        assert mode(mesh) == "PERMISSIVE"
        told = tlscheck(mesh, "--if-strict")
        assert told.code == 1
        assert all(cause in told.out for cause in CAUSES)
        assert f"{OLD}/cron" in told.out
    finally:
        permissive(mesh)


def test_what_is_named_may_be_cut_off_and_the_way_back_is_open(
    mesh: Mesh, play: Playground
) -> None:
    strict(mesh)
    named = f"{OLD}/*:*", f"{MESH}/bare:*", f"*:server.{MESH}:8000", f"*:peer.{MESH}"
    for index, edge in enumerate(named):
        mesh.pulumi("config", "set", "--path", f"mtlsCutOff[{index}]", edge)
    assert tlscheck(mesh, "--if-strict", "--except", f"{OLD}/*:*").code == 1
    mesh.pulumi("preview")
    mesh.up()
    assert mode(mesh) == "STRICT"
    assert play.eventually(OLD, CRON, URL, refused=True).error == "reset"
    mesh.pulumi("config", "rm", "mtlsCutOff")
    # it has nothing more to lose
    mesh.up("--expect-no-changes")
    permissive(mesh)
    mesh.up()
    assert play.eventually(OLD, CRON, URL, refused=False).status == 200


def test_when_nobody_would_be_cut_off_strict_costs_no_call(mesh: Mesh, play: Playground) -> None:
    play.kubectl("-n", MESH, "delete", "--ignore-not-found", "destinationrule/server")
    play.kubectl("-n", MESH, "delete", "--ignore-not-found", "deployment/bare", "--wait")
    play.apply(namespace(OLD, injected=True))
    play.kubectl("-n", OLD, "rollout", "restart", CRON)
    play.ready(OLD, "cron")
    for where, app in ((OLD, "app=cron"), (MESH, "part=bare")):
        play.kubectl(
            "-n", where, "wait", "pod", "--for=delete", "--timeout=60s",
            "-l", f"{app},!security.istio.io/tlsMode",
        )  # fmt: skip
    strict(mesh)
    mesh.pulumi("preview")
    mesh.up()
    assert mode(mesh) == "STRICT"
    assert play.eventually(OLD, CRON, URL, refused=False).status == 200
    sure = ("--require", "ISTIO_MUTUAL", "--from", f"{MESH}*/*", "--to", f"*.{MESH}")
    done = tlscheck(mesh, *sure)
    assert done.code == 0, done.out
    assert "ISTIO_MUTUAL" in done.out


def test_an_adopted_namespace_waits_for_its_pods(mesh: Mesh, play: Playground) -> None:
    play.apply(namespace(OLD, injected=False))
    play.kubectl("label", "namespace", OLD, "istio-injection-")
    play.kubectl("-n", OLD, "rollout", "restart", CRON)
    play.ready(OLD, "cron")
    permissive(mesh)
    mesh.up()
    mesh.set("namespace", OLD)
    mesh.set("adoptNamespace", "true")
    mesh.set("bookinfo", "false")
    mesh.pulumi("config", "rm", "mtlsHosts")
    strict(mesh)
    mesh.pulumi("config", "set", "--path", "mtlsCutOff[0]", "*:*")
    refused = mesh.pulumi("preview", ok=False)
    assert refused.code
    assert f"{OLD}/cron" in refused.out
    assert f"-n {OLD} rollout restart deployment" in refused.out
