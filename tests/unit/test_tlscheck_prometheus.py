"""`--prometheus` and `--observe`: what was counted, beside what the objects say."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tlscheck_objects import dr, for_app, obj, pa, pod, svc
from tlscheck import MeshConfig, World, prometheus, proxies, sources
from tlscheck import __main__ as command
from tlscheck.advice import Facts
from tlscheck.documents import BadInputError

Json = dict[str, Any]
Done = subprocess.CompletedProcess[bytes]
REQUESTS, CONNECTIONS = "istio_requests_total", "istio_tcp_connections_opened_total"
SHOP, WEB = "cli/shop-1", "srv/web-1"
STRICT = pa("istio-system/default", "STRICT")


def sample(
    metric: str = REQUESTS,
    count: object = "12",
    *,
    source: str = "cli/shop",
    to: str = "srv/web",
    policy: str = "mutual_tls",
    reporter: str = "destination",
) -> Json:
    """One entry of a vector, as the query sums Istio's labels."""
    labels = {"reporter": reporter, "connection_security_policy": policy}
    for end, name in (("source", source), ("destination", to)):
        namespace, _, workload = name.rpartition("/")
        labels |= {f"{end}_workload": workload, f"{end}_workload_namespace": namespace or workload}
    return {"of": metric, "metric": labels, "value": [1763892000.123, count]}


PLAIN = sample(policy="none", count="3")
STRANGER = sample(source="unknown", policy="none", count="2")


def workload(key: str, name: str, proxy: str = "sidecar", ports: Json | None = None) -> Json:
    """A pod of a Deployment, as istiod injects it."""
    made = pod(key, proxy, labels={"app": name, "pod-template-hash": "7d5"}, ports=ports)
    made["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": f"{name}-7d5"}]
    return made


def mesh(*more: Json, client: str = "sidecar", server: str = "sidecar") -> list[Json]:
    return [workload(SHOP, "shop", client), workload(WEB, "web", server), svc("srv/web"), *more]


class Prometheus(ThreadingHTTPServer):
    """Answers the API's queries with what a test has put down."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.series: list[Json] = []
        self.young = False
        self.warned: list[str] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None
        self.paths: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> bytes:
        self.paths.append(path)
        if self.body is not None:
            return self.body
        (query,) = parse_qs(urlsplit(path).query)["query"]
        found = [one for one in self.series if one["of"] in query]
        if query.startswith("count(up"):
            found = [] if self.young else [{"metric": {}, "value": [0, "3"]}]
        data = {"resultType": "vector", "result": found}
        return json.dumps({"status": "success", "data": data, "warnings": self.warned}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Prometheus)
        body = server.answer(self.path)
        self.send_response(server.status)
        for name, value in {"Content-Length": str(len(body)), **server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def row(self) -> Json:
        (row,) = [one for one in json.loads(self.out)["rows"] if one["from"] == SHOP]
        return dict(row)

    @property
    def warnings(self) -> dict[str, str]:
        return {w["code"]: f"{w['subject']}: {w['text']}" for w in json.loads(self.out)["warnings"]}


@dataclass
class Check:
    """Runs tlscheck on objects, beside a Prometheus."""

    prometheus: Prometheus
    capsys: pytest.CaptureFixture[str]
    objects: list[Json] = field(default_factory=lambda: mesh(STRICT))

    def run(self, *argv: str) -> Outcome:
        text = json.dumps({"kind": "List", "items": self.objects}).encode()
        out = io.StringIO()
        code = command.main(argv, io.BytesIO(text), out)
        return Outcome(code, out.getvalue(), self.capsys.readouterr().err)

    def seen(
        self, *series: Json, objects: list[Json] | None = None, argv: Sequence[str] = ()
    ) -> Outcome:
        """Of these series, in JSON."""
        self.prometheus.series = list(series)
        self.objects = self.objects if objects is None else objects
        return self.ask("--output", "json", *argv)

    def ask(self, *argv: str) -> Outcome:
        return self.run("-f", "-", "--prometheus", self.prometheus.address, *argv)

    def pair(self, *series: Json) -> Outcome:
        self.prometheus.series = list(series)
        return self.ask("shop.cli", "web.srv:80")


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    monkeypatch.setattr(prometheus, "_now", lambda: datetime(2026, 11, 23, 12, tzinfo=UTC))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Prometheus() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Check(server, capsys)
        server.shutdown()
        thread.join()


# --- agreement ------------------------------------------------------------------------------------


def test_mutual_tls_that_was_seen_agrees_with_mutual_tls(check: Check) -> None:
    done = check.seen(sample(), sample(CONNECTIONS, "1"), sample(reporter="source", count="13"))
    assert done.code == 0
    assert done.row["observed"] == {
        "agrees": True,
        "traffic": {
            "agrees": True,
            "seen": "mutual_tls",
            "requests": {"mutual_tls": 12},
            "connections": {"mutual_tls": 1},
            "sent": 13,
            "plaintext_to_strict": False,
        },
    }


def test_plaintext_that_was_seen_agrees_with_plaintext(check: Check) -> None:
    done = check.seen(PLAIN, objects=mesh(pa("srv/default", "DISABLE")))
    assert (done.code, done.row["effective"]) == (0, "PLAINTEXT")
    assert done.row["observed"]["agrees"] is True


def test_the_table_has_what_was_configured_and_what_was_seen(check: Check) -> None:
    check.prometheus.series = [sample()]
    head, line = check.ask().lines
    assert "ISTIO_MUTUAL ✅  mutual_tls  automatic mTLS" in line
    assert line.index("mutual_tls  ") + 1 == head.index("TRAFFIC")


def test_a_pair_tells_how_many_came_and_since_when(check: Check) -> None:
    done = check.pair(sample(), sample(CONNECTIONS, "1"))
    seen = "cli/shop -> srv/web since 2026-11-23T11:00:00Z: "
    assert f"  seen:   {seen}12 requests (mutual_tls), 1 connection (mutual_tls)" in done.lines
    assert done.lines[-1] == "TLS Mode: ISTIO_MUTUAL ✅"


def test_what_prometheus_extrapolates_to_less_than_one_was_seen(check: Check) -> None:
    done = check.seen(sample(count="0.017", policy="none"))
    assert (done.code, done.row["observed"]["traffic"]["requests"]) == (1, {"none": 1})


# --- disagreement ---------------------------------------------------------------------------------


def test_plaintext_seen_where_mutual_tls_is_configured_is_an_error(check: Check) -> None:
    done = check.pair(sample(), PLAIN)
    assert done.code == 1
    assert "  mutual_tls + none, disagrees  " in done.out
    assert done.lines[-1] == "TLS Mode: ISTIO_MUTUAL by the objects, not by the traffic ❌"
    assert done.err == (
        "tlscheck: the traffic disagrees: cli/shop-1 -> srv/web-1 web.srv:80 is ISTIO_MUTUAL\n"
    )
    assert (
        "warning: TRAFFIC_DISAGREES Workload srv/web: took 12 requests (mutual_tls), 3 requests "
        "(none) of cli/shop since 2026-11-23T11:00:00Z; for web.srv.svc.cluster.local:80 the "
        "objects say ISTIO_MUTUAL. Calls by a pod's address, an EnvoyFilter, a proxy that istiod "
        "does not reach, or rules that have changed since: ask again with a shorter --since"
    ) in done.lines


@pytest.mark.parametrize("metric", [REQUESTS, CONNECTIONS])
def test_requests_and_tcp_connections_both_count(check: Check, metric: str) -> None:
    assert check.seen(sample(metric, policy="none")).code == 1


def test_mutual_tls_seen_where_plaintext_is_configured_is_an_error(check: Check) -> None:
    done = check.seen(sample(), objects=mesh(dr("srv/web", "web.srv.svc.cluster.local", "DISABLE")))
    assert (done.code, done.row["effective"]) == (1, "PLAINTEXT")
    assert done.row["observed"]["agrees"] is False


@pytest.mark.parametrize("policy", ["mutual_tls", "none"])
def test_what_came_over_a_connection_that_must_fail_is_an_error(check: Check, policy: str) -> None:
    plain = dr("srv/web", "web.srv.svc.cluster.local", "DISABLE")
    done = check.seen(sample(policy=policy), objects=mesh(STRICT, plain))
    assert (done.code, done.row["effective"]) == (1, "CONFLICT")


def test_a_disagreement_fails_its_junit_test_case(check: Check) -> None:
    check.prometheus.series = [PLAIN]
    done = check.ask("--output", "junit")
    (failure,) = ET.fromstring(done.out).iter("failure")  # noqa: S314
    assert (done.code, failure.get("message")) == (1, "the traffic: none, disagrees")
    check.prometheus.series = [sample()]
    done = check.ask("--output", "junit")
    assert (done.code, [*ET.fromstring(done.out).iter("failure")]) == (0, [])  # noqa: S314


def test_the_table_parts_the_servers_that_the_traffic_parts(check: Check) -> None:
    again = workload("srv/web2-1", "web2")
    again["metadata"]["labels"]["app"] = "web"
    check.objects = mesh(STRICT, again)
    check.prometheus.series = [sample(), sample(to="srv/web2", policy="none")]
    done = check.ask("--from", "shop")
    lines = {name: line for line in done.lines for name in ("web-1", "web2-1") if name in line}
    assert "  mutual_tls  " in lines["web-1"]
    assert "  none, disagrees  " in lines["web2-1"]


# --- what cannot be told apart --------------------------------------------------------------------


def two_ports() -> list[Json]:
    """One port STRICT, one without TLS, of one workload."""
    by_port = pa(
        "srv/web", "STRICT", selector=for_app("web"), portLevelMtls={"9000": {"mode": "DISABLE"}}
    )
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "http-old", "port": 90, "targetPort": 9000},
    ]
    return [workload(SHOP, "shop"), workload(WEB, "web"), svc("srv/web", ports=ports), by_port]


def test_plaintext_that_another_port_may_carry_is_no_disagreement(check: Check) -> None:
    check.objects = two_ports()
    check.prometheus.series = [sample(), PLAIN]
    rows = json.loads(check.ask("--from", "shop", "--output", "json").out)["rows"]
    assert {row["port"]: row["effective"] for row in rows} == {80: "ISTIO_MUTUAL", 90: "PLAINTEXT"}
    assert [row["observed"]["agrees"] for row in rows] == [None, None]


def test_a_pair_looks_at_the_ports_that_were_not_asked_for(check: Check) -> None:
    check.objects = two_ports()
    assert check.pair(PLAIN).code == 0


def test_plaintext_of_strangers_that_another_port_may_carry_is_no_error(check: Check) -> None:
    done = check.seen(STRANGER, objects=two_ports(), argv=["--from", "shop"])
    assert (done.code, "PLAINTEXT_SEEN" in done.warnings) == (0, True)


def test_a_policy_that_a_proxy_did_not_know_is_shown_and_not_judged(check: Check) -> None:
    done = check.seen(sample(policy="unknown"))
    assert (done.code, done.row["observed"]["traffic"]["seen"]) == (0, "unknown")
    assert done.row["observed"]["agrees"] is None


# --- no traffic -----------------------------------------------------------------------------------


def test_no_traffic_is_no_error_and_proves_nothing(check: Check) -> None:
    done = check.seen(sample(to="srv/other"))
    assert (done.code, done.row["observed"]["agrees"]) == (0, None)
    assert done.row["observed"]["traffic"]["seen"] == "no traffic"


def test_series_that_did_not_grow_are_no_traffic(check: Check) -> None:
    assert check.seen(sample(count="0")).row["observed"]["traffic"]["seen"] == "no traffic"


def test_a_prometheus_without_istios_metrics_is_not_no_traffic(check: Check) -> None:
    done = check.seen()
    assert (done.code, done.row["observed"]["traffic"]["seen"]) == (0, "no metrics")
    assert done.warnings["PROMETHEUS_EMPTY"] == (
        f"Prometheus: has no {REQUESTS} and no {CONNECTIONS} since 2026-11-23T11:00:00Z: it "
        "scrapes no proxy that keeps Istio's metrics, so nothing is known of the traffic"
    )


def test_a_server_without_proxy_is_seen_by_the_client_only(check: Check) -> None:
    check.objects = mesh(server="none")
    done = check.pair(sample(reporter="source", policy="unknown", count="7"))
    assert done.code == 0
    assert "  client only  " in done.out
    assert "7 by the client's proxy, which does not know how they came" in done.out


def test_nothing_is_claimed_where_no_proxy_counts(check: Check) -> None:
    done = check.seen(sample(to="srv/other"), objects=mesh(client="none", server="none"))
    assert done.row["observed"]["traffic"]["seen"] == "-"


def test_nothing_is_claimed_of_a_service_without_endpoints(check: Check) -> None:
    done = check.seen(sample(), objects=[workload(SHOP, "shop"), svc("srv/web")])
    assert done.row["observed"]["traffic"]["seen"] == "-"


# --- clients that no connection stands for --------------------------------------------------------


def test_plaintext_of_a_stranger_to_a_strict_server_is_an_error(check: Check) -> None:
    done = check.seen(sample(), STRANGER)
    assert done.code == 1
    assert done.row["observed"]["agrees"] is False
    assert done.row["observed"]["traffic"]["agrees"] is True
    assert done.row["observed"]["traffic"]["plaintext_to_strict"] is True
    assert done.warnings["TRAFFIC_DISAGREES"].startswith(
        "Workload srv/web: took 2 requests (none) since 2026-11-23T11:00:00Z of clients that do "
        "not say who they are, and is STRICT. "
    )
    assert "  mutual_tls, STRICT took plaintext  " in check.pair(sample(), STRANGER).out


def test_plaintext_of_a_stranger_to_a_permissive_server_is_a_note(check: Check) -> None:
    gone = sample(CONNECTIONS, "1", source="old/gone", policy="none")
    done = check.seen(sample(), STRANGER, gone, objects=mesh())
    assert (done.code, done.row["observed"]["agrees"]) == (0, True)
    assert done.warnings["PLAINTEXT_SEEN"] == (
        "Workload srv/web: took 2 requests (none), 1 connection (none) since 2026-11-23T11:00:00Z "
        "of clients that do not say who they are, old/gone, and may: it is not STRICT"
    )


def test_plaintext_to_a_server_that_was_not_asked_for_is_not_told(check: Check) -> None:
    other = [workload("srv/other-1", "other"), svc("srv/other")]
    other[1]["spec"]["selector"] = {"app": "other"}
    check.objects = mesh(STRICT, *other)
    assert check.pair(sample(), sample(source="unknown", to="srv/other", policy="none")).code == 0


def test_a_client_without_proxy_may_be_the_unknown_one(check: Check) -> None:
    done = check.seen(STRANGER, objects=mesh(client="none"))
    assert (done.code, done.row["effective"]) == (0, "PLAINTEXT")
    assert done.row["observed"]["traffic"]["seen"] == "unknown client: none"
    assert done.row["observed"]["agrees"] is None


# --- names ----------------------------------------------------------------------------------------


def named(change: Callable[[Json], object]) -> list[Json]:
    found = mesh(STRICT)
    change(found[0])
    return found


def by_env(item: Json) -> None:
    env = [{"name": "ISTIO_META_WORKLOAD_NAME", "value": "real"}]
    item["spec"]["initContainers"] = [{"name": "istio-proxy", "env": env}]


def by_owner(kind: str, name: str) -> Callable[[Json], None]:
    def change(item: Json) -> None:
        item["metadata"]["ownerReferences"] = [{"kind": kind, "name": name}]

    return change


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda _: None, "cli/shop"),
        (by_env, "cli/real"),
        (
            lambda p: p["metadata"]["labels"].update({"service.istio.io/workload-name": "x"}),
            "cli/x",
        ),
        (lambda p: p["metadata"].pop("ownerReferences"), "cli/shop-1"),
        (by_owner("StatefulSet", "db"), "cli/db"),
        (by_owner("Job", "nightly-29411040"), "cli/nightly"),
    ],
)
def test_a_pod_goes_by_the_name_that_istios_metrics_give_it(
    check: Check, change: Callable[[Json], object], name: str
) -> None:
    done = check.seen(sample(source=name), objects=named(change))
    assert done.row["observed"]["traffic"]["seen"] == "mutual_tls"


def test_a_deployment_without_pods_goes_by_its_own_name(check: Check) -> None:
    labels = {"app": "shop", "sidecar.istio.io/inject": "true"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app"}]}}
    spec = {"selector": {"matchLabels": {"app": "shop"}}, "template": template}
    shop = {"apiVersion": "apps/v1", **obj("Deployment", "cli/shop", spec)}
    check.prometheus.series = [sample()]
    check.objects = [shop, *mesh(STRICT)[1:]]
    (row,) = json.loads(check.ask("--from", "shop", "--output", "json").out)["rows"]
    assert row["observed"]["agrees"] is True


# --- what is asked --------------------------------------------------------------------------------


def test_there_is_one_query_per_metric_however_many_edges(check: Check) -> None:
    more = [item for n in range(5) for item in (workload(f"cli/c{n}-1", f"c{n}"), svc(f"srv/s{n}"))]
    check.seen(sample(to="srv/other", count="0"), objects=mesh(*more), argv=["--since", "90m"])
    queries = [parse_qs(urlsplit(path).query)["query"][0] for path in check.prometheus.paths]
    assert queries == [prometheus.query(metric, "90m") for metric in (REQUESTS, CONNECTIONS)]


def test_a_path_prefix_and_a_trailing_slash_are_kept_apart(check: Check) -> None:
    check.run("-f", "-", "--prometheus", f"{check.prometheus.address}/mon/")
    assert check.prometheus.paths[0].startswith("/mon/api/v1/query?query=")


def test_counts_from_before_a_young_prometheus_are_named(check: Check) -> None:
    check.prometheus.young = True
    assert "PROMETHEUS_YOUNG" in check.seen(sample()).warnings
    check.prometheus.young = False
    assert "PROMETHEUS_YOUNG" not in check.seen(sample()).warnings


def test_what_prometheus_remarks_is_passed_on_once(check: Check) -> None:
    check.prometheus.warned = ["a store did not answer"]
    found = json.loads(check.seen(sample()).out)["warnings"]
    assert [w["text"] for w in found].count("a store did not answer") == 1


def test_without_the_flags_nobody_is_asked_and_nothing_of_it_is_loaded() -> None:
    program = (
        "import sys; from tlscheck.__main__ import main; main(['-f', '-']); "
        "sys.exit('tlscheck.prometheus' in sys.modules or 'http.client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=b"", check=False)
    assert done.returncode == 0


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:9090", "ftp://127.0.0.1", "http://", "http://[", "http://127.0.0.1:x",
     "http://127.0.0.1:0", "http://127.0.0.1/?a=b", "http://127.0.0.1/#a", "http://a b",
     "file:///etc/passwd", "http://127.0.0.1/\x1b[2J"],
)  # fmt: skip
def test_what_is_no_address_of_prometheus_is_refused_before_anything_is_read(
    check: Check, address: str
) -> None:
    done = check.run("--prometheus", address, "-f", "/nowhere")
    assert (done.code, done.err.count("\n"), done.out) == (2, 1, "")
    assert "--prometheus" in done.err
    assert "http://127.0.0.1:9090" in done.err
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    "since", ["", "0", "0m", "59s", "11y", "1h 5m", "-1h", "1.5h", "5m1h", "1"]
)
def test_what_is_no_window_is_refused_before_anything_is_read(check: Check, since: str) -> None:
    done = check.run("--observe", f"--since={since}", "-f", "/nowhere")
    assert (done.code, "--since" in done.err, "1d12h" in done.err) == (2, True, True)


@pytest.mark.parametrize(("since", "length"), [("1m", 60), ("1h30m", 5400), ("1d12h", 129_600)])
def test_a_window_is_in_prometheus_words(since: str, length: int) -> None:
    assert prometheus.seconds(since) == length


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--observe", "--prometheus", "http://127.0.0.1:9"], "leave --prometheus out"),
        (["--since", "2h"], "add --observe"),
        (["--observe", "-f", "-"], "leave -f and others out, or give its address"),
        (["--observe", "--stack-state", "-"], "leave -f and others out, or give its address"),
        (["--observe", "--preview", "-"], "leave -f and others out, or give its address"),
        (["--prometheus", "http://me:pw@127.0.0.1"], "takes no password"),
    ],
)
def test_arguments_that_mean_nothing_together_are_refused(
    check: Check, argv: list[str], said: str
) -> None:
    done = check.run(*argv)
    assert (done.code, said in done.err, "pw" in done.err.replace("password", "")) == (
        2,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"", "asks for a login, which tlscheck has none for; use --observe"),
        (403, b"<html>", "asks for a login"),
        (302, b"", "redirects elsewhere; give the address of Prometheus itself"),
        (404, b"404 page not found", "a path prefix is missing"),
        (500, b"[" * 100_000, "HTTP 500"),
        (503, b"", "HTTP 503"),
        (400, b'{"status": "error", "error": "parse\\u001b error"}', "says: parse? error"),
        (200, b"<html>Log in</html>", "its answer is not JSON"),
        (200, b"[" * 100_000, "its answer is not JSON"),
        (200, b"\xff", "its answer is not JSON"),
        (200, b"[]", "status None"),
        (200, b'{"status": "error", "error": "query timed out"}', "says: query timed out"),
        (200, b'{"status": "success"}', "is no vector"),
        (
            200,
            b'{"status": "success", "data": {"resultType": "matrix", "result": []}}',
            "no vector",
        ),
        (200, b'{"status": "success", "data": {"resultType": "vector", "result": [{}]}}', "sample"),
    ],
)
def test_an_answer_that_is_none_is_one_clear_error(
    check: Check, status: int, body: bytes, said: str
) -> None:
    check.prometheus.status, check.prometheus.body = status, body
    check.prometheus.headers = {"Location": "/login"} if status == 302 else {}
    done = check.ask()
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err
    assert "\x1b" not in done.err
    assert len(check.prometheus.paths) == 1


def test_an_answer_without_end_is_left(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MAX_BYTES", 100)
    assert "more than 100 bytes" in check.seen(sample()).err


def test_a_prometheus_that_does_not_answer_is_named(check: Check) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}"
    done = check.run("-f", "-", "--prometheus", address)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"tlscheck: {address}: Prometheus does not answer: ")


# --- answers of others are text, and never more ---------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
LABELS = st.dictionaries(
    st.sampled_from(sorted({*prometheus.ENDS, *prometheus.SIDES})),
    st.sampled_from(["cli", "shop", "srv", "web", "unknown", "destination", "source"]) | JSON,
)
VALUES = st.tuples(JSON, st.sampled_from(["1", "NaN", "+Inf", "-1", "1e308"]) | JSON).map(list)
SAMPLES = st.fixed_dictionaries({"metric": LABELS | JSON, "value": VALUES | JSON}) | JSON
ANSWERS = JSON | st.fixed_dictionaries(
    {
        "status": st.just("success") | JSON,
        "data": st.fixed_dictionaries(
            {"resultType": st.just("vector"), "result": st.lists(SAMPLES, max_size=4) | JSON}
        ),
        "warnings": JSON,
    }
)


@settings(max_examples=300, deadline=None)
@given(answer=ANSWERS)
def test_no_answer_makes_more_of_tlscheck_than_one_error(answer: Any) -> None:
    objects = mesh(STRICT)
    world = World.parse(objects, MeshConfig.parse({}))
    traffic = prometheus.Traffic(world=world, facts=Facts(objects), since="1h")
    judged = command.pair_rows(
        command.parser().parse_args(["shop.cli", "web.srv"]), world, Facts(objects)
    )
    try:
        traffic.read(lambda _: json.dumps(answer).encode())
    except BadInputError:
        return
    traffic.warnings(judged)
    assert all(json.dumps(traffic.observe(row).as_json()) for row in judged)
    assert [text for row in judged for text in traffic.tell(row)] or not traffic.metrics


@pytest.mark.parametrize("argv", [(), ("shop.cli", "web.srv"), ("--output", "junit")])
def test_labels_do_not_reach_the_terminal_as_commands(check: Check, argv: tuple[str, ...]) -> None:
    evil = "\x1b[2J\n\x07"
    check.prometheus.series = [
        sample(policy=evil),
        sample(source=f"x/{evil}", policy="none"),
        sample(source=f"{evil}/x", to=f"srv/{evil}", policy="none"),
    ]
    check.prometheus.warned = [evil]
    done = check.ask(*argv)
    assert done.code == 1
    assert not {"\x1b", "\x07"} & {*done.out, *done.err}


# --- the Prometheus of the cluster ----------------------------------------------------------------


def service(namespace: str, port: int = 9090) -> Json:
    found = svc(f"{namespace}/prometheus", ports=[{"name": "http", "port": port}])
    return found | {"apiVersion": "v1"}


@dataclass
class Cluster(Check):
    """The same, of a cluster that kubectl leads to."""

    raw: list[str] = field(default_factory=list)
    refused: str = ""
    argv: list[str] = field(default_factory=list)

    def kubectl(self, argv: Sequence[str]) -> Done:
        if "--raw" not in argv:
            items = [] if "configmaps" in argv else self.objects
            return Done(argv, 0, json.dumps({"kind": "List", "items": items}).encode(), b"")
        self.argv, path = [*argv], argv[-1]
        self.raw.append(path)
        if self.refused:
            return Done(argv, 1, b"", self.refused.encode())
        return Done(argv, 0, self.prometheus.answer(path.partition("/proxy")[2]), b"")


@pytest.fixture
def cluster(check: Check, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(check.prometheus, check.capsys)
    made.objects = [*mesh(STRICT), service("istio-system")]
    for module in (sources, prometheus, proxies):
        monkeypatch.setattr(module, "_run", made.kubectl)
    return made


def test_observe_asks_the_service_through_the_api_server(cluster: Cluster) -> None:
    cluster.prometheus.series = [PLAIN]
    done = cluster.run("--observe", "--context", "c1", "--from", "shop")
    assert (done.code, "none, disagrees" in done.out) == (1, True)
    base = "/api/v1/namespaces/istio-system/services/prometheus:9090/proxy/api/v1/query?query="
    assert all(path.startswith(base) for path in cluster.raw)
    assert cluster.argv[:5] == ["kubectl", "--context", "c1", "get", "--raw"]


@pytest.mark.parametrize(
    ("services", "found"),
    [
        ([service("istio-system"), service("other")], "istio-system"),
        ([service("istio-system", 80), service("other")], "other"),
        ([service("other")], "other"),
        ([service("other"), service("third")], None),
        ([service("istio-system", 80)], None),
        ([], None),
    ],
)
def test_observe_takes_the_one_prometheus_that_there_is(
    cluster: Cluster, services: list[Json], found: str | None
) -> None:
    cluster.objects = [*mesh(STRICT), *services]
    cluster.prometheus.series = [sample()]
    done = cluster.run("--observe", "--from", "shop", "--to", "web")
    if found is None:
        assert (done.code, done.out, cluster.raw) == (2, "", [])
        assert "one Service prometheus with port 9090" in done.err
    else:
        assert done.code == 0
        assert f"/namespaces/{found}/services/" in cluster.raw[0]


def test_a_refusal_of_the_api_server_names_the_right_that_it_needs(cluster: Cluster) -> None:
    cluster.refused = "Error from server (Forbidden): services is forbidden\n"
    done = cluster.run("--observe")
    assert (done.code, done.out) == (2, "")
    assert "Error from server (Forbidden)" in done.err
    assert "`get` of services/proxy" in done.err


def test_a_kubectl_that_hangs_is_left(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(argv: Sequence[str]) -> Done:
        raise subprocess.TimeoutExpired(argv, 1)

    monkeypatch.setattr(prometheus, "_run", hangs)
    assert "no answer (TimeoutExpired)" in cluster.run("--observe").err


# --- beside the proxies ---------------------------------------------------------------------------

PROXY: Json = {"config_dump?include_eds": {}, "certs": {}, "clusters?format=json": {}}


def test_proxies_and_traffic_stand_side_by_side(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: Sequence[str]) -> Done:
        return Done(argv, 0, json.dumps(PROXY.get(argv[-1], "")).encode(), b"")

    monkeypatch.setattr(proxies, "_run", run)
    cluster.prometheus.series = [sample()]
    done = cluster.run("--observe", "--proxies", "shop.cli", "web.srv", "--output", "json")
    (row,) = json.loads(done.out)["rows"]
    assert set(row["observed"]) == {"agrees", "client", "server", "traffic"}
    # these proxies have nothing of what the objects say
    assert (row["observed"]["agrees"], row["observed"]["traffic"]["agrees"]) == (False, True)
    done = cluster.run("--observe", "--proxies", "shop.cli", "web.srv")
    (head,) = [line for line in done.lines if line.startswith("SRC")]
    assert head.split()[-3:] == ["PROXIES", "TRAFFIC", "WHY"]
    assert done.lines[-1].endswith("by the objects, not by the proxies ❌")
    cluster.prometheus.series = [PLAIN]
    done = cluster.run("--observe", "--proxies", "shop.cli", "web.srv")
    assert done.lines[-1].endswith("by the objects, not by the proxies and the traffic ❌")
    assert done.err.count("disagree") == 2
