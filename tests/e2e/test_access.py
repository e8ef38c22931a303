"""The call graph on real proxies: who is let in, with what, who is not, and what a dry run does.

The lab has no network plugin that enforces NetworkPolicies: of these it is seen that the API server
takes them, and that they stay as they were written.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from components import bookinfo
from components.access_policy import ALLOW_NOTHING, access_specs
from components.call_graph import Gateway, edges
from components.kinds import ROOT_NAMESPACE
from components.network_policy import Destination, NetworkPoliciesArgs, network_policy_specs
from lab.lifecycle import running
from lab.playground import GET, Answer, Playground, namespace, workload
from lab.verify import EDGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e

WHERE, PLAIN = "bookinfo", "access-legacy"
INGRESS = "istio-ingressgateway"
GRAPH = bookinfo.call_graph(
    WHERE,
    Gateway(namespace=ROOT_NAMESPACE, account=INGRESS, labels={"istio": "ingressgateway"}),
)
DENIED = "RBAC: access denied"
PORT = 9080

_POST = """
import http.client, json, sys
connection = http.client.HTTPConnection(sys.argv[1], 9080, timeout=5)
connection.request("POST", sys.argv[2], "{}")
answer = connection.getresponse()
body = answer.read().decode()
print(json.dumps({"status": answer.status, "error": None, "headers": {}, "body": body}))
"""


def _switch(mesh: Mesh, mode: str) -> None:
    mesh.set("authorizationPolicy", mode)
    mesh.up()


@pytest.fixture(scope="module")
def play(mesh: Mesh) -> Iterator[Playground]:
    """Bookinfo in a dry run, a stranger beside it with a sidecar, and an outsider without."""
    mesh.reset_settings()
    mesh.set("networkPolicy", "true")
    _switch(mesh, "dry-run")
    play = Playground(mesh.stack, mesh.paths)
    play.apply(namespace(PLAIN, injected=False))
    play.apply(*workload("stranger", WHERE), *workload("outsider", PLAIN))
    play.ready(WHERE, "stranger")
    play.ready(PLAIN, "outsider")
    yield play
    play.delete_namespaces([PLAIN])
    play.kubectl("-n", WHERE, "delete", "deployment,serviceaccount", "stranger")
    mesh.pulumi("destroy", "--yes", "--skip-preview")


@pytest.fixture(scope="module")
def enforced(mesh: Mesh, play: Playground) -> Playground:
    """The same, and the policies are meant."""
    _switch(mesh, "enforce")
    for server in GRAPH.services:
        deadline = time.monotonic() + 20
        while _ask(play, "stranger", f"http://{server.name}:{PORT}/").status != 403:
            assert time.monotonic() < deadline, f"{server.name} lets everybody in"
            time.sleep(0.2)
    return play


def _inside(app: str) -> tuple[str, ...]:
    where = (f"deployment/{app}", "app") if app == "stranger" else (f"deployment/{app}-v1", app)
    return ("-n", WHERE, "exec", where[0], "-c", where[1], "--")


def _ask(play: Playground, client: str, url: str) -> Answer:
    return Answer.parse(play.kubectl(*_inside(client), *GET, url))


def _in_time(ask: Callable[[], Answer], status: int = 403) -> Answer:
    """The answer with this status, or the last one where it does not come.

    A connection that is open keeps the rules it was opened under until its next answer, which
    closes it: the first request after a change may still be judged by the old ones.
    """
    deadline = time.monotonic() + 20
    while (answer := ask()).status != status and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


def _post(play: Playground, client: str, server: str, path: str) -> Answer:
    python = GET[4]
    return Answer.parse(play.kubectl(*_inside(client), python, "-S", "-c", _POST, server, path))


def _stat(play: Playground, app: str, name: str) -> int:
    words = ("exec", f"deployment/{app}-v1", "-c", "istio-proxy", "--")
    text = play.kubectl(
        "-n", WHERE, *words, "pilot-agent", "request", "GET", f"stats?filter={name}"
    )
    return sum(int(line.rpartition(":")[2]) for line in text.splitlines() if name in line)


def _through_the_gateway(mesh: Mesh, path: str, *, method: str = "GET") -> Answer:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    found = running(mesh.paths)
    assert found is not None
    data = b"username=jason" if method == "POST" else None
    request = urllib.request.Request(f"http://127.0.0.1:{found.ingress}{path}", data, method=method)
    try:
        response = urllib.request.build_opener(Stay).open(request, timeout=10)
    except urllib.error.HTTPError as answer:
        response = answer
    with response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = response.read().decode()
        return Answer(status=response.status, error=None, headers=headers, body=body)


def test_a_dry_run_lets_pass_and_counts_what_it_would_refuse(play: Playground) -> None:
    deadline = time.monotonic() + 20
    while not _stat(play, "details", "shadow_denied"):
        answer = _ask(play, "stranger", f"http://details:{PORT}/details/0")
        assert answer.status == 200, "a dry run refuses nothing"
        assert time.monotonic() < deadline, "the dry run is not counted"
    counted = _stat(play, "details", "shadow_denied")
    assert _ask(play, "productpage", f"http://details:{PORT}/details/0").status == 200
    assert _stat(play, "details", "shadow_denied") == counted, "a call of the graph is no offence"
    assert _stat(play, "details", "shadow_allowed") > 0


def test_the_policies_in_the_cluster_are_those_of_the_graph(play: Playground) -> None:
    words = ("-n", WHERE, "get", "authorizationpolicies", "-o", "json")
    found = json.loads(play.kubectl(*words))["items"]
    assert {one["metadata"]["name"]: one["spec"] for one in found} == access_specs(GRAPH)
    assert all(one["metadata"]["annotations"]["istio.io/dry-run"] == "true" for one in found)


def test_the_api_server_keeps_the_network_policies_as_they_are(play: Playground) -> None:
    words = ("-n", WHERE, "get", "networkpolicies", "-o", "json")
    found = json.loads(play.kubectl(*words))["items"]
    jaeger = Destination(namespace=ROOT_NAMESPACE, labels={"app": "jaeger"}, ports=(4317,))
    args = NetworkPoliciesArgs(
        graph=GRAPH, prometheus_namespace=ROOT_NAMESPACE, destinations=(jaeger,)
    )
    assert {one["metadata"]["name"]: one["spec"] for one in found} == network_policy_specs(args)


@pytest.mark.parametrize("server", [one.name for one in GRAPH.services])
def test_a_stranger_with_a_certificate_of_the_mesh_is_refused(
    enforced: Playground, server: str
) -> None:
    for path in (f"/{server}/0", "/productpage", "/health"):
        url = f"http://{server}:{PORT}{path}"
        answer = _in_time(partial(_ask, enforced, "stranger", url))
        assert (answer.status, answer.body) == (403, DENIED), path


def test_every_call_of_the_graph_passes(enforced: Playground) -> None:
    for client, server, path in EDGES:
        answer = _ask(enforced, client, f"http://{server}:{PORT}{path}")
        assert answer.status == 200, (client, server, answer)
        assert answer.peer["URI"] == f"spiffe://{GRAPH.principal(client)}"


@pytest.mark.parametrize(
    ("client", "server", "path"),
    [
        ("productpage", "ratings", "/ratings/0"),
        ("reviews", "details", "/details/0"),
        ("details", "ratings", "/ratings/0"),
        ("ratings", "productpage", "/productpage"),
    ],
)
def test_a_call_between_services_that_the_graph_lacks_is_refused(
    enforced: Playground, client: str, server: str, path: str
) -> None:
    answer = _in_time(lambda: _ask(enforced, client, f"http://{server}:{PORT}{path}"))
    assert (answer.status, answer.body) == (403, DENIED)


def test_the_right_client_with_another_path_or_method_is_refused(enforced: Playground) -> None:
    health = f"http://details:{PORT}/health"
    for answer in (
        _in_time(lambda: _ask(enforced, "productpage", health)),
        _in_time(lambda: _post(enforced, "productpage", "details", "/details/0")),
        _in_time(lambda: _post(enforced, "reviews", "ratings", "/ratings/0")),
    ):
        assert (answer.status, answer.body) == (403, DENIED)


@pytest.mark.usefixtures("enforced")
def test_the_gateway_is_known_by_its_own_identity(mesh: Mesh) -> None:
    answer = _through_the_gateway(mesh, "/productpage")
    assert answer.status == 200
    assert "Reviewer1" in answer.body, "details and reviews were asked, too"
    assert answer.peer["URI"] == f"spiffe://cluster.local/ns/{ROOT_NAMESPACE}/sa/{INGRESS}"


@pytest.mark.usefixtures("enforced")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/productpage?u=normal", 200),
        ("GET", "/static/style.css", 200),
        ("GET", "/api/v1/products", 200),
        ("GET", "/api/v1/products/0/reviews", 200),
        ("POST", "/login", 302),
        ("GET", "/logout", 302),
        ("GET", "/login", 403),
        ("POST", "/productpage", 403),
        ("DELETE", "/api/v1/products/0", 403),
    ],
)
def test_the_gateway_may_send_what_the_page_needs_and_nothing_else(
    mesh: Mesh, method: str, path: str, status: int
) -> None:
    answer = _in_time(lambda: _through_the_gateway(mesh, path, method=method), status)
    assert answer.status == status, answer
    assert (answer.body == DENIED) == (status == 403)


@pytest.mark.usefixtures("enforced")
def test_an_allowed_request_that_leads_to_a_call_outside_the_graph_ends_there(mesh: Mesh) -> None:
    answer = _in_time(lambda: _through_the_gateway(mesh, "/api/v1/products/0/ratings"))
    assert answer.status == 403
    assert "ratings answered 403" in answer.body, "productpage was let in, and was refused itself"


def test_probes_and_prometheus_are_not_concerned(enforced: Playground) -> None:
    for deployment in enforced.pods(WHERE, "app"):
        ready = {c["type"]: c["status"] for c in deployment["status"]["conditions"]}["Ready"]
        assert ready == "True", deployment["metadata"]["name"]
    (pod,) = enforced.pods(WHERE, "app=productpage")
    address = pod["status"]["podIP"]
    url = f"http://{address}:15020/stats/prometheus"
    scraped = enforced.get(PLAIN, "deployment/outsider", url)
    assert scraped.status == 200
    probe = enforced.get(PLAIN, "deployment/outsider", f"http://{address}:15021/healthz/ready")
    assert probe.status == 200
    metrics = enforced.get(PLAIN, "deployment/outsider", f"http://{address}:{PORT}/metrics")
    assert metrics.error == "reset", "the application's own port takes no plaintext"


def test_the_metrics_of_the_application_are_among_the_agents(enforced: Playground) -> None:
    (pod,) = enforced.pods(WHERE, "app=productpage")
    agent = f"http://{pod['status']['podIP']}:15020/stats/prometheus"
    script = (
        "import sys, urllib.request as r; "
        "print(b'request_result_total' in r.urlopen(sys.argv[1]).read())"
    )
    words = (GET[4], "-c", script, agent)
    assert enforced.execute(PLAIN, "deployment/outsider", *words).strip() == "True"


@pytest.mark.usefixtures("enforced")
def test_every_edge_is_mutual_tls(mesh: Mesh) -> None:
    for edge in edges(GRAPH):
        arguments = ("--from", edge["client"], "--to", edge["server"], "-o", "json")
        words = (sys.executable, "-m", "tlscheck", *mesh.stack.cluster(), *arguments)
        rows = json.loads(mesh.run(*words, "--require", "ISTIO_MUTUAL").out)["rows"]
        assert rows, f"no such edge: {edge}"
        assert {row["effective"] for row in rows} == {"ISTIO_MUTUAL"}


@pytest.mark.usefixtures("enforced")
def test_a_second_up_changes_nothing(mesh: Mesh) -> None:
    assert mesh.pulumi("preview").changes().keys() == {"unchanged"}


def test_switched_off_nothing_is_left_and_all_pass(mesh: Mesh, enforced: Playground) -> None:
    _switch(mesh, "off")
    left = enforced.kubectl("-n", WHERE, "get", "authorizationpolicies", "-o", "name")
    assert ALLOW_NOTHING not in left
    assert not left.strip()
    deadline = time.monotonic() + 20
    while _ask(enforced, "stranger", f"http://details:{PORT}/details/0").status != 200:
        assert time.monotonic() < deadline


def test_switching_on_and_off_under_load_refuses_no_call_of_the_graph(
    mesh: Mesh, play: Playground
) -> None:
    url = f"http://details:{PORT}/details/0"
    words = (*_inside("productpage"), *GET, url, "--count", "100", "--rate", "20")
    over = threading.Event()

    def load() -> Iterator[dict[str, Any]]:
        for _ in range(60):
            yield json.loads(play.kubectl(*words))
            if over.is_set():
                return

    with ThreadPoolExecutor() as pool:
        loads = pool.submit(lambda: list(load()))
        try:
            _switch(mesh, "enforce")
            refused = _in_time(lambda: _ask(play, "stranger", url)).status
            _switch(mesh, "off")
            assert not loads.done(), "the load was over too early to say anything"
        finally:
            over.set()
        seen = loads.result()
    assert refused == 403, "it was switched on meanwhile"
    assert {status for one in seen for status in one["by_status"]} == {"200"}, seen
    assert all(one["errors"] == {} for one in seen), seen
