"""The four observability components beside a mesh that is STRICT: what works, what is hidden.

Prometheus runs, and Jaeger where its release could be had; else the lab's own collector takes the
traces in a test of them. Grafana and Kiali are simulated.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab import toolchain
from lab.cluster import SIMULATED
from lab.lifecycle import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import Mesh, Result

pytestmark = pytest.mark.e2e

WHERE = "istio-system"
PARTS = {"prometheus", "grafana", "jaeger", "kiali"}
BOOKINFO = ("details", "productpage", "ratings", "reviews")
WITH_PROXY = {*BOOKINFO, "istio-ingressgateway", "istio-egressgateway"}
"""Label `app` of the pods that have one in the dev stack."""

COLLECTOR = "jaeger-collector"
STAND_IN = "otlp-collector"
GATEWAY = "istio-ingressgateway.istio-system"
WAY = [
    *((GATEWAY, "server"), (GATEWAY, "client")),
    *(("productpage.bookinfo", "server"), ("productpage.bookinfo", "client")),
    ("reviews.bookinfo", "server"),
]
"""A request's spans from the edge to reviews, each the parent of the next."""


@pytest.fixture(scope="module")
def observed(mesh: Mesh) -> Iterator[Mesh]:
    """The dev stack, the four included."""
    mesh.reset_settings()
    mesh.up()
    yield mesh
    mesh.reset_settings()
    mesh.pulumi("destroy", "--yes", "--skip-preview")


def _ask(mesh: Mesh, service: str, path: str, /, **query: str) -> Any:
    """A Service's answer, through the API server's proxy."""
    address = f"/api/v1/namespaces/{WHERE}/services/{service}/proxy{path}"
    found = mesh.kubectl("get", "--raw", f"{address}?{urllib.parse.urlencode(query)}").out
    return json.loads(found)


def _metrics(mesh: Mesh, query: str) -> list[dict[str, Any]]:
    answer = _ask(mesh, "prometheus:9090", "/api/v1/query", query=query)
    assert answer["status"] == "success", answer
    series: list[dict[str, Any]] = answer["data"]["result"]
    return series


def _eventually(what: Callable[[], Any], *, within_s: float = 60) -> Any:
    """The first answer that is something; an assertion fails as long as it may."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if found := what():
                return found
            last: object = found
        except (AssertionError, urllib.error.URLError) as error:
            last = error
        assert time.monotonic() < deadline, last
        time.sleep(1)


def _open_the_page(mesh: Mesh, query: str = "", **headers: str) -> None:
    found = running(mesh.paths)
    assert found is not None
    address = f"http://127.0.0.1:{found.ingress}/productpage{query}"
    with urllib.request.urlopen(
        urllib.request.Request(address, headers=headers), timeout=10
    ) as page:
        assert page.status == 200


def _pod(mesh: Mesh, app: str) -> dict[str, Any]:
    (pod,) = mesh.get("pods", "-n", WHERE, "-l", f"app={app}")
    return pod


def _runs(mesh: Mesh, app: str) -> bool:
    """Whether processes stand for it, and not kwok."""
    return SIMULATED not in (_pod(mesh, app)["metadata"].get("annotations") or {})


def test_all_four_are_ready_and_without_a_sidecar(observed: Mesh) -> None:
    deployments = {d["metadata"]["name"]: d for d in observed.get("deployments", "-n", WHERE)}
    assert deployments.keys() > PARTS
    for part in PARTS:
        assert deployments[part]["status"]["readyReplicas"] == 1, part
        spec = _pod(observed, part)["spec"]
        assert [c["name"] for c in spec["containers"]] == [part]
        assert not spec.get("initContainers")


def test_prometheus_runs_and_what_the_lab_has_no_program_for_says_so(observed: Mesh) -> None:
    assert _runs(observed, "prometheus")
    for part in ("grafana", "kiali"):
        assert not _runs(observed, part)


def test_under_strict_every_target_with_a_program_behind_it_is_up(observed: Mesh) -> None:
    modes = {
        policy["metadata"]["namespace"]: policy["spec"]["mtls"]["mode"]
        for policy in observed.get("peerauthentications", "-A")
    }
    assert modes == {WHERE: "STRICT"}
    real = {p["metadata"]["name"] for p in observed.get("pods", "-A") if _is_real(p)}

    def all_up() -> bool:
        found = _ask(observed, "prometheus:9090", "/api/v1/targets", state="active")
        targets = [
            target
            for target in found["data"]["activeTargets"]
            if target["labels"].get("pod", "prometheus") in {*real, "prometheus"}
        ]
        assert [t for t in targets if t["health"] != "up"] == []
        pools = {t["scrapePool"] for t in targets}
        assert pools == {"istiod", "kubernetes-pods", "prometheus"}
        apps = {t["labels"].get("app") for t in targets if t["scrapePool"] == "kubernetes-pods"}
        assert apps >= WITH_PROXY
        return True

    _eventually(all_up)


def _is_real(pod: dict[str, Any]) -> bool:
    return SIMULATED not in (pod["metadata"].get("annotations") or {})


def test_proxies_are_asked_on_the_agents_port_which_is_not_intercepted(observed: Mesh) -> None:
    found = _ask(observed, "prometheus:9090", "/api/v1/targets", state="active")
    urls = {
        urllib.parse.urlparse(target["scrapeUrl"])
        for target in found["data"]["activeTargets"]
        if target["labels"].get("app") in WITH_PROXY
    }
    assert {(url.scheme, url.port, url.path) for url in urls} == {
        ("http", 15020, "/stats/prometheus")
    }


def test_envoys_own_figures_of_requests_through_bookinfo_arrive(observed: Mesh) -> None:
    _open_the_page(observed)
    query = "sum by (app) (envoy_cluster_upstream_rq_total) > 0"

    def counted() -> bool:
        apps = {series["metric"].get("app") for series in _metrics(observed, query)}
        assert apps >= {"istio-ingressgateway", "productpage", "reviews"}
        return True

    _eventually(counted)


def test_istiod_tells_how_many_proxies_are_connected(observed: Mesh) -> None:
    def connected() -> bool:
        (series,) = _metrics(observed, 'sum(pilot_xds{job="istiod"})')
        assert float(series["value"][1]) == 8, "six of Bookinfo and two gateways"
        return True

    _eventually(connected)


def test_promtool_accepts_the_configuration_in_the_cluster(observed: Mesh, tmp_path: Path) -> None:
    (config,) = (
        c for c in observed.get("configmaps", "-n", WHERE) if c["metadata"]["name"] == "prometheus"
    )
    (text,) = config["data"].values()
    assert _check_config(observed, text, tmp_path).returncode == 0
    wrong = text.replace("scrape_timeout", "scrape_timeuot")
    assert _check_config(observed, wrong, tmp_path).returncode != 0


def _check_config(mesh: Mesh, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    tools = toolchain.ensure(["promtool"])
    path = folder / "prometheus.yml"
    path.write_text(text)
    return subprocess.run(
        [str(tools.path("promtool")), "check", "config", "--syntax-only", str(path)],
        env={**os.environ, **mesh.stack.variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_prometheus_may_list_pods_and_nothing_else(observed: Mesh) -> None:
    account = f"--as=system:serviceaccount:{WHERE}:prometheus"
    for verb, resource, answer in (
        ("list", "pods", "yes"),
        ("watch", "pods", "yes"),
        ("list", "secrets", "no"),
        ("get", "configmaps", "no"),
        ("delete", "pods", "no"),
    ):
        said = observed.kubectl("auth", "can-i", verb, resource, "-A", account, ok=False).out
        assert said.split()[-1] == answer, (verb, resource)


def test_a_pod_with_a_read_only_root_writes_only_into_its_volumes(observed: Mesh) -> None:
    words = ("-n", WHERE, "exec", "deployment/prometheus", "--", "sh", "-c")
    for path, code in (("/prometheus/mine", 0), ("/tmp/mine", 1), ("/etc/mine", 1)):
        done = observed.kubectl(*words, f"echo 1 > {path}", ok=False)
        assert bool(done.code) == bool(code), done.out
        assert not code or "Read-only file system" in done.out
    assert observed.kubectl(*words, "id -u").out.split()[-1] == "65534"


@pytest.fixture
def traced(observed: Mesh) -> Iterator[Mesh]:
    """Where Jaeger is simulated, the lab's own collector stands behind its Services."""
    if _runs(observed, "jaeger"):
        yield observed
        return
    (service,) = (
        s for s in observed.get("services", "-n", WHERE) if s["metadata"]["name"] == COLLECTOR
    )
    stand_in = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": STAND_IN, "namespace": WHERE, "labels": service["spec"]["selector"]},
        "spec": {
            "containers": [
                {
                    "name": STAND_IN,
                    "image": STAND_IN,
                    "readinessProbe": {"tcpSocket": {"port": 4317}, "periodSeconds": 1},
                }
            ]
        },
    }
    observed.kubectl("-n", WHERE, "scale", "deployment/jaeger", "--replicas=0")
    try:
        created = observed.kubectl("create", "-f", "-", stdin=json.dumps(stand_in))
        assert created.code == 0, created.out
        observed.kubectl(
            "-n", WHERE, "wait", "--for=condition=Ready", f"pod/{STAND_IN}", "--timeout=60s"
        )
        yield observed
    finally:
        observed.kubectl("-n", WHERE, "delete", "pod", STAND_IN, "--ignore-not-found")
        observed.kubectl("-n", WHERE, "scale", "deployment/jaeger", "--replicas=1")
        observed.kubectl("-n", WHERE, "rollout", "status", "deployment/jaeger", "--timeout=60s")


def _traces(mesh: Mesh) -> dict[str, Any]:
    """All traces with a span of one of these services, by id."""
    return {
        trace["traceID"]: trace
        for service in (GATEWAY, *(f"{app}.bookinfo" for app in BOOKINFO))
        for trace in _ask(mesh, "tracing:80", "/api/traces", service=service, limit="1000")["data"]
    }


def _tag(span: dict[str, Any], key: str) -> Any:
    return next((tag["value"] for tag in span["tags"] if tag["key"] == key), None)


def _way_to_reviews(trace: dict[str, Any]) -> list[tuple[str, str]]:
    """(service, kind) of the spans from the root to reviews; empty if one is not there (yet)."""
    spans = {span["spanID"]: span for span in trace["spans"]}

    def at(span: dict[str, Any]) -> tuple[str, str]:
        return trace["processes"][span["processID"]]["serviceName"], _tag(span, "span.kind")

    for span in trace["spans"]:
        if at(span) == WAY[-1]:
            way, found = [at(span)], span
            while found["references"]:
                parent = spans.get(found["references"][0]["spanID"])
                if parent is None:
                    return []
                found = parent
                way.insert(0, at(found))
            return way
    return []


def _pages(trace: dict[str, Any]) -> set[str]:
    """The pages whose requests are in a trace, by the mark in their addresses."""
    urls = (str(_tag(span, "http.url")) for span in trace["spans"])
    return {url.partition("?mark=")[2] for url in urls if "?mark=" in url}


def _sampling(mesh: Mesh) -> set[float]:
    """Percentages of requests that the ingress gateway and productpage trace on their own."""
    found = set()
    for where, workload in ((WHERE, "istio-ingressgateway"), ("bookinfo", "productpage-v1")):
        words = (f"deployment/{workload}", "-c", "istio-proxy", "--", "pilot-agent")
        dump = mesh.kubectl("-n", where, "exec", *words, "request", "GET", "config_dump").out
        settings = re.findall(r'"random_sampling": \{([^}]*)\}', dump)
        assert settings, f"{workload} has no tracing"
        found |= {float(one.partition(":")[2] or 0) for one in settings}
    return found


def test_a_request_leaves_one_trace_from_the_gateway_through_productpage_to_reviews(
    traced: Mesh,
) -> None:
    assert _sampling(traced) == {100}, "the demo profile's"
    marks = (f"traced-{number}" for number in itertools.count())

    def whole() -> dict[str, Any]:
        # what a proxy sends before it knows the collector is lost: so another one each time
        _open_the_page(traced, f"?mark={next(marks)}")
        # without a mark it is the page that was opened before, arriving late
        found = {id_: trace for id_, trace in _traces(traced).items() if _pages(trace)}
        return {id_: trace for id_, trace in found.items() if _way_to_reviews(trace) == WAY}

    for id_, trace in _eventually(whole).items():
        assert {span["traceID"] for span in trace["spans"]} == {id_}
        assert [_tag(s, "span.kind") for s in trace["spans"] if not s["references"]] == ["server"]
        assert len(_pages(trace)) == 1, "requests have traces of their own"
    requests = Counter(page for trace in _traces(traced).values() for page in _pages(trace))
    assert set(requests.values()) == {1}, "and no request has two"


def test_without_sampling_only_what_the_client_wants_traced_is(traced: Mesh) -> None:
    marks = (f"sampled-{number}" for number in itertools.count())
    traced.set("traceSampling", "0")
    try:
        traced.up()
        _eventually(lambda: _sampling(traced) == {0})
        # a proxy finishes the connections it has with the settings they began with

        def only_the_wanted() -> bool:
            before = _traces(traced).keys()
            _open_the_page(traced, f"?mark={next(marks)}")
            wanted = next(marks)
            # honoured at the edge: client_sampling stays at 100 percent
            _open_the_page(traced, f"?mark={wanted}", **{"x-client-trace-id": wanted})

            def arrived() -> dict[str, Any]:
                found = _traces(traced)
                new = {id_: trace for id_, trace in found.items() if id_ not in before}
                whole = [t for t in new.values() if _way_to_reviews(t) == WAY]
                return new if any(_pages(trace) == {wanted} for trace in whole) else {}

            pages = [_pages(trace) for trace in _eventually(arrived, within_s=15).values()]
            assert pages == [{wanted}], pages
            return True

        _eventually(only_the_wanted)
    finally:
        traced.pulumi("config", "rm", "traceSampling")
        traced.up()


def test_up_again_changes_nothing_and_a_refresh_finds_no_drift(observed: Mesh) -> None:
    assert observed.up("--expect-no-changes").changes().keys() == {"unchanged"}
    observed.pulumi("preview", "--refresh", "--expect-no-changes")


def _secrets(mesh: Mesh) -> dict[str, str]:
    """What must be readable nowhere: every value of the Secrets of Grafana and Kiali."""
    found = {}
    for secret in mesh.get("secrets", "-n", WHERE):
        name = secret["metadata"]["name"]
        if name in PARTS:
            for key, value in secret["data"].items():
                found[f"{name}/{key}"] = base64.b64decode(value).decode()
    return found


def _leaks(secrets: dict[str, str], text: str) -> list[str]:
    """Names of the secrets that are in a text, plainly or encoded."""
    return [
        name
        for name, value in secrets.items()
        if value in text or base64.b64encode(value.encode()).decode() in text
    ]


def test_no_secret_can_be_read_in_state_previews_or_outputs(observed: Mesh) -> None:
    secrets = _secrets(observed)
    assert secrets.keys() == {
        "grafana/admin-password",
        "kiali/grafana-password",
        "kiali/login-token-signing-key",
    }
    assert all(len(value) >= 16 for value in secrets.values())
    observed.set("prometheusRetention", "12h")
    try:
        said: dict[str, Result] = {
            name: observed.pulumi(*words)
            for name, words in {
                "state": ("stack", "export"),
                "outputs": ("stack", "output", "--json"),
                "preview": ("preview", "--diff"),
                "preview of what is the same": ("preview", "--json", "--show-sames"),
            }.items()
        }
    finally:
        observed.set("prometheusRetention", "6h")
    assert "12h" in said["preview"].out, "the preview shows something"
    for name, result in said.items():
        assert _leaks(secrets, result.out) == [], name
    for path in (observed.paths.pulumi / "state").rglob("*"):
        if path.is_file():
            assert _leaks(secrets, path.read_text(errors="replace")) == [], path


def test_no_secret_can_be_read_in_the_clusters_other_objects(observed: Mesh) -> None:
    secrets = _secrets(observed)
    for kind in ("configmaps", "deployments", "pods", "replicasets", "events"):
        text = observed.kubectl("get", kind, "-A", "-o", "json").out
        assert _leaks(secrets, text) == [], kind


def test_a_secret_that_is_there_would_be_noticed(observed: Mesh) -> None:
    secrets = _secrets(observed)
    text = observed.kubectl("get", "secrets", "-n", WHERE, "-o", "json").out
    assert set(_leaks(secrets, text)) == secrets.keys()


def test_a_changed_retention_restarts_prometheus_and_nothing_else(observed: Mesh) -> None:
    before = {part: _pod(observed, part)["metadata"]["uid"] for part in PARTS}
    observed.set("prometheusRetention", "12h")
    assert observed.up().changes()["updated"] == 1
    observed.kubectl("-n", WHERE, "rollout", "status", "deployment/prometheus", "--timeout=120s")
    _eventually(lambda: len(observed.get("pods", "-n", WHERE, "-l", "app=prometheus")) == 1)
    after = {part: _pod(observed, part)["metadata"]["uid"] for part in PARTS}
    assert {part for part in PARTS if before[part] != after[part]} == {"prometheus"}
    observed.set("prometheusRetention", "6h")
    observed.up()


def test_parts_can_be_left_out_and_take_all_of_theirs_along(observed: Mesh) -> None:
    observed.pulumi("config", "rm", "observability")
    observed.pulumi("config", "set", "--path", "observability[0]", "prometheus")
    observed.up()
    left = {d["metadata"]["name"] for d in observed.get("deployments", "-n", WHERE)}
    assert left & PARTS == {"prometheus"}
    for kind in ("services", "configmaps", "secrets", "serviceaccounts"):
        names = {o["metadata"]["name"] for o in observed.get(kind, "-n", WHERE)}
        assert names & (PARTS - {"prometheus"}) == set(), kind


def test_destroy_leaves_nothing(observed: Mesh) -> None:
    observed.reset_settings()
    observed.up()
    observed.pulumi("destroy", "--yes", "--skip-preview")
    namespaces = {n["metadata"]["name"] for n in observed.get("namespaces")}
    assert WHERE not in namespaces
    for kind in ("clusterroles", "clusterrolebindings"):
        ours = [o["metadata"]["name"] for o in observed.get(kind)]
        assert [name for name in ours if name.startswith(tuple(PARTS))] == [], kind
    exported = json.loads(observed.pulumi("stack", "export").out)
    assert not exported["deployment"].get("resources")
