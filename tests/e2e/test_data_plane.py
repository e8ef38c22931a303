"""Real sidecars: what passes, what is refused, what is on the wire, and what survives."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from lab import verify
from lab.lifecycle import running
from lab.playground import (
    GET,
    Playground,
    namespace,
    peer_authentication,
    workload,
)
from lab.truth import __main__ as truth
from lab.truth import speak
from lab.truth.batch import batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e

MESH, PLAIN = "plane", "plane-legacy"
CLIENT, OUTSIDER = "deployment/client", "deployment/outsider"
URL = f"http://server.{MESH}:8000/"
SECOND = f"http://server.{MESH}:8001/"


def _server() -> list[dict[str, Any]]:
    """The echo server, with a second one on another port of the same pod."""
    account, deployment, service = workload("server", MESH, image="echo")
    second = {"name": "second", "image": "service-mesh.lab/echo", "args": ["--port", "8081"]}
    deployment["spec"]["template"]["spec"]["containers"].append(second)
    service["spec"]["ports"].append({"name": "http-second", "port": 8001, "targetPort": 8081})
    return [account, deployment, service]


@pytest.fixture(scope="module")
def play(mesh: Mesh) -> Iterator[Playground]:
    """The stack's mesh, a server and a client in it, and a client outside."""
    mesh.reset_settings()
    mesh.up()
    play = Playground(mesh.stack, mesh.paths)
    play.apply(namespace(MESH, injected=True), namespace(PLAIN, injected=False))
    play.apply(*_server(), *workload("client", MESH), *workload("outsider", PLAIN))
    play.ready(MESH, "server", "client")
    play.ready(PLAIN, "outsider")
    yield play
    play.delete_namespaces([MESH, PLAIN])
    mesh.pulumi("destroy", "--yes", "--skip-preview")


@pytest.fixture
def address(play: Playground) -> str:
    """The server pod's own address."""
    (pod,) = play.pods(MESH, "app=server")
    return str(pod["status"]["podIP"])


def _mode(play: Playground, mode: str) -> None:
    play.apply(peer_authentication(MESH, mode))
    play.eventually(PLAIN, OUTSIDER, URL, refused=mode == "STRICT")


def test_a_client_with_a_sidecar_passes_under_strict(play: Playground) -> None:
    _mode(play, "STRICT")
    assert play.get(MESH, CLIENT, URL).status == 200


def test_both_sides_are_known_by_their_service_accounts(play: Playground) -> None:
    peer = play.get(MESH, CLIENT, URL).peer
    assert peer["By"] == f"spiffe://cluster.local/ns/{MESH}/sa/server"
    assert peer["URI"] == f"spiffe://cluster.local/ns/{MESH}/sa/client"


def test_strict_resets_plaintext_by_name_and_by_address(play: Playground, address: str) -> None:
    for url in (URL, f"http://{address}:8080/"):
        answer = play.get(PLAIN, OUTSIDER, url)
        assert (answer.status, answer.error) == (None, "reset"), url


def test_strict_refuses_tls_without_a_client_certificate(play: Playground, address: str) -> None:
    answer = play.get(PLAIN, OUTSIDER, f"https://{address}:8080/", "--insecure")
    assert answer.status is None
    assert answer.error is not None
    assert answer.error.startswith(("tls", "reset"))


def test_permissive_lets_both_pass(play: Playground) -> None:
    _mode(play, "PERMISSIVE")
    assert play.get(PLAIN, OUTSIDER, URL).status == 200
    answer = play.get(MESH, CLIENT, URL)
    assert answer.status == 200
    assert answer.peer["URI"].endswith("/sa/client"), "a sidecar still encrypts"


def test_a_port_exception_opens_that_port_and_no_other(play: Playground) -> None:
    play.apply(
        peer_authentication(MESH, "STRICT"),
        peer_authentication(MESH, "STRICT", app="server", ports={8081: "PERMISSIVE"}),
    )
    try:
        play.eventually(PLAIN, OUTSIDER, URL, refused=True)
        assert play.eventually(PLAIN, OUTSIDER, SECOND, refused=False).status == 200
        assert play.get(PLAIN, OUTSIDER, URL).error == "reset"
    finally:
        play.kubectl("-n", MESH, "delete", "peerauthentication", "server")


def test_the_wire_shows_the_request_under_disable_and_only_tls_under_strict(
    play: Playground,
) -> None:
    disable, strict = verify.sniff(play)
    assert int(disable.rpartition("in clear")[2].split()[0]) > 0
    assert int(disable.split()[1]) == 0
    assert int(strict.rpartition("in clear")[2].split()[0]) == 0
    assert int(strict.split()[1]) > 0


@pytest.mark.parametrize(("account", "status"), [("somebody-else", 403), ("client", 200)])
def test_an_authorization_policy_knows_who_asks(
    play: Playground, account: str, status: int
) -> None:
    principal = f"cluster.local/ns/{MESH}/sa/{account}"
    play.apply(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "server", "namespace": MESH},
            "spec": {
                "selector": {"matchLabels": {"app": "server"}},
                "rules": [{"from": [{"source": {"principals": [principal]}}]}],
            },
        }
    )
    try:
        deadline = time.monotonic() + 15
        while (answer := play.get(MESH, CLIENT, URL)).status != status:
            assert time.monotonic() < deadline, answer
    finally:
        play.kubectl("-n", MESH, "delete", "authorizationpolicy", "server")


@pytest.mark.usefixtures("play")
def test_the_gateway_routes_bookinfos_paths_and_no_others(mesh: Mesh) -> None:
    found = running(mesh.paths)
    assert found is not None
    url = f"http://127.0.0.1:{found.ingress}"
    with urllib.request.urlopen(f"{url}/productpage", timeout=10) as page:
        assert page.status == 200
        assert "Reviewer1" in page.read().decode()
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"{url}/unknown", timeout=10)
    assert refusal.value.code == 404
    refusal.value.close()


def test_every_edge_of_bookinfo_is_proven(mesh: Mesh, play: Playground) -> None:
    found = running(mesh.paths)
    assert found is not None
    outputs = json.loads(mesh.pulumi("stack", "output", "--json").out)
    url = f"http://127.0.0.1:{found.ingress}/productpage"
    words = (sys.executable, "-m", "tlscheck", *mesh.stack.cluster(), "--output", "json")
    rows = json.loads(mesh.run(*words).out)["rows"]
    proofs = list(verify.prove(play, outputs, url, rows))
    assert {(p.client, p.server) for p in proofs} == {
        ("ingress gateway", "productpage"),
        ("productpage v1", "details"),
        ("productpage v1", "reviews"),
        ("reviews v1", "ratings"),
        ("reviews v2", "ratings"),
        ("reviews v3", "ratings"),
    }
    assert all(p.ok for p in proofs), verify.table(proofs)


def test_the_proxies_agree_until_somebody_meddles_with_one(mesh: Mesh, play: Playground) -> None:
    words = (sys.executable, "-m", "tlscheck", *mesh.stack.cluster(), "--proxies", "-o", "json")
    calls = ("--from", "bookinfo/productpage*", "--to", "reviews.bookinfo")
    socket = "envoy.transport_sockets.raw_buffer"
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
    plain = {"transport_socket": {"name": socket, "typed_config": {"@type": kind}}}
    service = {"service": "reviews.bookinfo.svc.cluster.local"}
    meddler = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "meddler", "namespace": "bookinfo"},
        "spec": {
            "workloadSelector": {"labels": {"app": "productpage"}},
            "configPatches": [
                {
                    "applyTo": "CLUSTER",
                    "match": {"context": "SIDECAR_OUTBOUND", "cluster": service},
                    "patch": {"operation": "MERGE", "value": plain},
                }
            ],
        },
    }
    done = mesh.run(*words, *calls)
    seen = [row["observed"] for row in json.loads(done.out)["rows"]]
    assert seen
    assert all(one["agrees"] and one["client"]["valid"] for one in seen), seen
    assert {one["client"]["identity"] for one in seen} == {
        "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage"
    }
    play.apply(meddler)
    try:
        deadline = time.monotonic() + 15
        while not (done := mesh.run(*words, *calls, ok=False)).code:
            assert time.monotonic() < deadline, done.out
    finally:
        play.kubectl("-n", "bookinfo", "delete", "envoyfilter", "meddler")
    assert done.code == 1
    assert "PROXY_DISAGREES" in done.out


def test_a_headless_service_names_every_ready_pod(play: Playground) -> None:
    _, deployment, service = workload("many", MESH, image="echo", replicas=3)
    service["spec"]["clusterIP"] = "None"
    account = workload("many", MESH)[0]
    play.apply(account, deployment, service)
    try:
        play.ready(MESH, "many")
        pods = {p["status"]["podIP"] for p in play.pods(MESH, "app=many")}
        script = f"import socket; print(*socket.gethostbyname_ex('many.{MESH}')[2])"
        python = GET[4]
        found = play.execute(PLAIN, OUTSIDER, python, "-c", script).split()
        assert set(found) == pods
        assert len(pods) == 3
    finally:
        play.kubectl("-n", MESH, "delete", "deployment,service,serviceaccount", "many")


def test_a_rollout_of_reviews_under_load_loses_no_request(play: Playground) -> None:
    target = "http://reviews:9080/reviews/0"
    words = ("-n", "bookinfo", "exec", "deployment/productpage-v1", "-c", "productpage", "--")
    with ThreadPoolExecutor() as pool:
        load = pool.submit(play.kubectl, *words, *GET, target, "--count", "600", "--rate", "20")
        for version in ("v1", "v2", "v3"):
            play.kubectl("-n", "bookinfo", "rollout", "restart", f"deployment/reviews-{version}")
            play.ready("bookinfo", f"reviews-{version}")
        seen = json.loads(load.result())
    assert seen["sent"] == 600
    assert seen["errors"] == {}
    assert seen["by_status"] == {"200": 600}


def _kill(play: Playground, pod: dict[str, Any], container: str, program: str) -> None:
    """Kill -9 a program of one container; its root folder tells whose it is."""
    meta = pod["metadata"]
    script = """
        for p in /proc/[0-9]*; do
            case "$(readlink $p/root)" in */"$1"_*/rootfs-"$2") ;; *) continue ;; esac
            grep -qs -- "$3" $p/comm && kill -9 ${p#/proc/} && echo killed
        done
    """
    words = (f"{meta['namespace']}_{meta['name']}", container, program)
    killed = play.on_node("sh", "-c", script, "sh", *words).communicate()[0]
    assert "killed" in killed


@pytest.mark.parametrize(("container", "program"), [("istio-proxy", "envoy"), ("app", "python")])
def test_a_killed_process_is_restarted_and_traffic_recovers(
    play: Playground, container: str, program: str
) -> None:
    (pod,) = play.pods(MESH, "app=server")
    before = _restarts(pod, container)
    _kill(play, pod, container, program)
    deadline = time.monotonic() + 20
    while _restarts(play.pods(MESH, "app=server")[0], container) == before:
        assert time.monotonic() < deadline, "the restart is not reported"
    while (answer := play.get(MESH, CLIENT, URL)).status != 200:
        assert time.monotonic() < deadline, answer
    # the same pod with the same address: a restart is not a new pod
    (after,) = play.pods(MESH, "app=server")
    assert after["status"]["podIP"] == pod["status"]["podIP"]
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]


def test_traffic_goes_on_while_istiod_is_killed_and_comes_back(play: Playground) -> None:
    (istiod,) = play.pods("istio-system", "app=istiod")
    _kill(play, istiod, "discovery", "pilot-discovery")
    assert play.get(MESH, CLIENT, URL).status == 200, "sidecars keep their configuration"
    play.ready("istio-system", "istiod")
    _mode(play, "PERMISSIVE")
    _mode(play, "STRICT")
    assert play.get(PLAIN, OUTSIDER, URL).error == "reset", "istiod configures them again"


def _restarts(pod: dict[str, Any], container: str) -> int:
    status = pod["status"]
    runs = [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
    return int(next(c["restartCount"] for c in runs if c["name"] == container))


def test_certificates_rotate_without_a_failed_request(play: Playground) -> None:
    account, deployment, service = workload("brief", MESH, image="echo")
    config = {"proxyMetadata": {"SECRET_TTL": "30s", "SECRET_GRACE_PERIOD_RATIO": "0.5"}}
    template = deployment["spec"]["template"]
    template["metadata"]["annotations"] = {"proxy.istio.io/config": json.dumps(config)}
    play.apply(account, deployment, service)
    try:
        play.ready(MESH, "brief")
        url = f"http://brief.{MESH}:8000/"
        deadline = time.monotonic() + 20
        while (answer := play.get(MESH, CLIENT, url)).status != 200:
            assert time.monotonic() < deadline, answer  # the client's proxy hears of it later
        first = _serial(play, "brief")
        load = play.execute(MESH, CLIENT, *GET, url, "--count", "500", "--rate", "20")
        seen = json.loads(load)
        assert _serial(play, "brief") != first, "25 s are more than half of the certificate's life"
        assert seen["by_status"] == {"200": 500}, seen
        assert seen["errors"] == {}
    finally:
        play.kubectl("-n", MESH, "delete", "deployment,service,serviceaccount", "brief")


def _serial(play: Playground, name: str) -> str:
    words = ("exec", f"deployment/{name}", "-c", "istio-proxy", "--")
    text = play.kubectl("-n", MESH, *words, "pilot-agent", "request", "GET", "certs")
    chains = [c for one in json.loads(text)["certificates"] for c in one.get("cert_chain", [])]
    return str(chains[0]["serial_number"])


def test_thirty_pods_with_sidecars_all_start(play: Playground) -> None:
    account, deployment = workload("crowd", MESH, replicas=30)
    play.apply(account, deployment)
    try:
        play.ready(MESH, "crowd")
        assert len(play.pods(MESH, "app=crowd")) == 30
    finally:
        play.kubectl("-n", MESH, "delete", "deployment,serviceaccount", "crowd")


def test_rows_of_the_case_file_go_as_tlscheck_judges_them(mesh: Mesh, play: Playground) -> None:
    # their servers' namespaces have policies of their own: the stack's STRICT changes nothing
    chosen = {"O12", "O15", "O23", "O24"}
    (batch,) = batches([case for case in truth.read(truth.FILES[0]) if case["id"] in chosen])
    spoken = speak.speak(play, mesh.paths, batch)
    assert {one.case for one in spoken} == chosen
    assert all(one.problem is None for one in spoken), "\n".join(speak.table(spoken))
