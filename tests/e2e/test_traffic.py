"""What is asked for of traffic, on real sidecars: the specs that `components.traffic` builds."""

from __future__ import annotations

import json
import math
import re
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from components.traffic import (
    AbRoute,
    Canary,
    CircuitBreaker,
    EgressHost,
    EgressTls,
    Fault,
    HostTraffic,
    MatchBy,
    Mirror,
    Retries,
    egress,
    http,
    problems,
)
from lab.playground import Playground, namespace, peer_authentication, workload
from lab.truth import speak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e

MESH, OUTSIDE = "traffic", "traffic-outside"
GATEWAY = "istio-egressgateway"
GATEWAY_HOST = f"{GATEWAY}.istio-system.svc.cluster.local"
SHOP, FLAKY = f"http://shop.{MESH}:8000/", f"http://flaky.{MESH}:8000/"
CLIENT = "deployment/client"
HOST = "api.example.com"
NOWHERE = "192.0.2.10"
"""An address that nobody has (RFC 5737): only a proxy's configuration can lead on from it."""

_ASK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
from lab.apps.get import Ask, once
url, headers, count, at_once, nowhere = json.loads(sys.argv[1])
look_up = socket.getaddrinfo
# the lab has no DNS beyond itself, and an application outside of it would
socket.getaddrinfo = lambda host, *rest, **more: look_up(
    nowhere if host.endswith(".example.com") else host, *rest, **more
)
with ThreadPoolExecutor(at_once) as pool:
    print(json.dumps(list(pool.map(once, [Ask(url, headers, 30.0, True)] * count))))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """One answer."""

    status: int | None
    error: str | None
    seconds: float
    headers: dict[str, str]
    body: str

    @property
    def by(self) -> str:
        """Which Deployment answered; "" for a proxy of its own accord."""
        return (
            self.headers.get("x-served-by", "").split()[0].rsplit("-", 2)[0] if self.served else ""
        )

    @property
    def served(self) -> bool:
        """Whether an application answered."""
        return "x-served-by" in self.headers


def ask(
    play: Playground,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    count: int = 1,
    at_once: int = 8,
) -> list[Heard]:
    words = json.dumps([url, headers or {}, count, at_once, NOWHERE])
    text = play.execute(MESH, CLIENT, sys.executable, "-S", "-c", _ASK, words)
    return [
        Heard(
            status=one["status"],
            error=one["error"],
            seconds=one["seconds"],
            headers=one["headers"] or {},
            body=one["body"] or "",
        )
        for one in json.loads(text)
    ]


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait for configuration to reach the proxies."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.3)


def istio(kind: str, name: str, where: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": where},
        "spec": spec,
    }


def declare(play: Playground, one: HostTraffic) -> None:
    """Write the two objects that the component would make, and delete what it would not."""
    assert problems([one], production=False) == []
    rule, routes = http.destination_rule(one), http.virtual_service(one)
    assert rule is not None
    assert rule["trafficPolicy"]["tls"] == {"mode": "ISTIO_MUTUAL"}
    play.apply(istio("DestinationRule", one.host, MESH, rule))
    if routes is None:
        play.kubectl("-n", MESH, "delete", "virtualservice", "--ignore-not-found", one.host)
    else:
        play.apply(istio("VirtualService", one.host, MESH, routes))


def shop(**changes: Any) -> HostTraffic:
    return HostTraffic(host="shop", versions=("v1", "v2"), **changes)


def flaky(**changes: Any) -> HostTraffic:
    return HostTraffic(host="flaky", **changes)


def _deployment(name: str, labels: dict[str, str], *, port: int = 8080) -> list[dict[str, Any]]:
    """An echo server; with another port than the Service's, everything it should answer fails."""
    account, deployment, _ = workload(name, MESH, image="echo")
    spec = deployment["spec"]
    spec["selector"]["matchLabels"] = labels
    spec["template"]["metadata"]["labels"] = labels
    (container,) = spec["template"]["spec"]["containers"]
    container["args"] = ["--port", str(port)]
    container["ports"] = [{"containerPort": port}]
    container["readinessProbe"]["httpGet"]["port"] = port
    return [account, deployment]


def _secure() -> list[dict[str, Any]]:
    """A server that takes HTTP and HTTPS on one port, with a certificate that nobody signed."""
    account, deployment, _ = workload("secure", OUTSIDE, image="echo")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["command"] = [sys.executable, "-S", "-m", "lab.apps.either", "8443"]
    container["env"] = [{"name": "CERTIFICATE", "value": speak._certificate()}]
    container["readinessProbe"]["httpGet"]["port"] = 8443
    return [account, deployment]


def _service(name: str, selector: dict[str, str]) -> dict[str, Any]:
    ports = [{"name": "http", "port": 8000, "targetPort": 8080}]
    meta = {"name": name, "namespace": MESH}
    spec = {"selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


@pytest.fixture(scope="module")
def play(mesh: Mesh) -> Iterator[Playground]:
    mesh.reset_settings()
    mesh.up()
    play = Playground(mesh.stack, mesh.paths)
    yield from shops(play)
    mesh.pulumi("destroy", "--yes", "--skip-preview")


def shops(play: Playground) -> Iterator[Playground]:
    """Two versions of a shop; a flaky service, one of whose two pods fails; a client; STRICT."""
    play.apply(namespace(MESH, injected=True), namespace(OUTSIDE, injected=False))
    play.apply(
        peer_authentication(MESH, "STRICT"),
        *_deployment("shop-v1", {"app": "shop", "version": "v1", "flaky": "yes"}),
        *_deployment("shop-v2", {"app": "shop", "version": "v2"}),
        *_deployment("broken", {"app": "broken", "flaky": "yes"}, port=8090),
        *workload("client", MESH),
        *workload("outsider", OUTSIDE),
        *workload("server", OUTSIDE, image="echo"),
        *_secure(),
        _service("shop", {"app": "shop"}),
        _service("flaky", {"flaky": "yes"}),
    )
    play.ready(MESH, "shop-v1", "shop-v2", "broken", "client")
    play.ready(OUTSIDE, "server", "secure", "outsider")
    try:
        yield play
    finally:
        play.delete_namespaces([MESH, OUTSIDE])


@pytest.mark.parametrize("weight", [10, 50])
def test_a_thousand_requests_split_as_the_weight_says(play: Playground, weight: int) -> None:
    declare(play, shop(canary=Canary(stable="v1", canary="v2", weight=weight)))

    def settled() -> bool:
        seen = Counter(one.by for one in ask(play, SHOP, count=100))
        return abs(seen["shop-v2"] - weight) < 20

    until(f"weight {weight}", settled)
    count = 1000
    seen = Counter(one.by for one in ask(play, SHOP, count=count))
    deviation = math.sqrt(count * weight / 100 * (1 - weight / 100))
    print(f"weight {weight}: {dict(seen)}, standard deviation {deviation:.1f}")
    assert seen.total() == seen["shop-v1"] + seen["shop-v2"] == count, seen
    assert abs(seen["shop-v2"] - count * weight / 100) < 4 * deviation, seen


@pytest.mark.parametrize(("weight", "all_of_it"), [(0, "shop-v1"), (100, "shop-v2")])
def test_the_ends_of_a_canary_are_all_or_nothing(
    play: Playground, weight: int, all_of_it: str
) -> None:
    declare(play, shop(canary=Canary(stable="v1", canary="v2", weight=weight)))
    until(all_of_it, lambda: {one.by for one in ask(play, SHOP, count=30)} == {all_of_it})
    assert Counter(one.by for one in ask(play, SHOP, count=300)) == {all_of_it: 300}


def test_mutual_tls_holds_under_a_canary(play: Playground) -> None:
    declare(play, shop(canary=Canary(stable="v1", canary="v2", weight=50)))
    until("both", lambda: len({one.by for one in ask(play, SHOP, count=30)}) == 2)
    for one in ask(play, SHOP, count=20):
        assert f"URI=spiffe://cluster.local/ns/{MESH}/sa/client" in one.body
    assert play.get(OUTSIDE, "deployment/outsider", SHOP).error == "reset"


@pytest.mark.parametrize(
    ("route", "match", "others"),
    [
        (
            AbRoute(version="v2", by=MatchBy.HEADER, name="X-Beta", value="yes"),
            {"x-beta": "yes"},
            [{}, {"x-beta": "no"}],
        ),
        (
            AbRoute(version="v2", by=MatchBy.USER, value="jason"),
            {"end-user": "jason"},
            [{}, {"end-user": "jasonx"}],
        ),
        (
            AbRoute(version="v2", by=MatchBy.COOKIE, name="beta", value="1.0"),
            {"cookie": "a=b; beta=1.0; c=d"},
            [{}, {"cookie": "beta=1x0"}, {"cookie": "alphabeta=1.0"}, {"cookie": "a=beta=1.0"}],
        ),
    ],
)
def test_who_matches_reaches_the_version_and_nobody_else_does(
    play: Playground, route: AbRoute, match: dict[str, str], others: list[dict[str, str]]
) -> None:
    declare(play, shop(ab=(route,)))
    until("match", lambda: {one.by for one in ask(play, SHOP, match, count=20)} == {"shop-v2"})
    assert Counter(one.by for one in ask(play, SHOP, match, count=100)) == {"shop-v2": 100}
    for other in others:
        assert Counter(one.by for one in ask(play, SHOP, other, count=100)) == {"shop-v1": 100}


def test_an_ab_route_comes_before_the_canary(play: Playground) -> None:
    jason = AbRoute(version="v1", by=MatchBy.USER, value="jason")
    declare(play, shop(ab=(jason,), canary=Canary(stable="v1", canary="v2", weight=100)))
    until("canary", lambda: {one.by for one in ask(play, SHOP, count=20)} == {"shop-v2"})
    seen = ask(play, SHOP, {"end-user": "jason"}, count=50)
    assert {one.by for one in seen} == {"shop-v1"}


def _logged(play: Playground, name: str, word: str) -> int:
    return play.kubectl("-n", MESH, "logs", f"deployment/{name}", "-c", "app").count(word)


def test_a_mirror_gets_copies_and_answers_nobody(play: Playground) -> None:
    declare(play, shop(mirror=Mirror(version="v2")))

    def mirrored() -> bool:
        mark = uuid.uuid4().hex
        seen = ask(play, f"{SHOP}?{mark}", count=5)
        time.sleep(0.5)
        return {one.by for one in seen} == {"shop-v1"} and _logged(play, "shop-v2", mark) == 5

    until("mirror", mirrored)
    mark = uuid.uuid4().hex
    seen = Counter(one.by for one in ask(play, f"{SHOP}?{mark}", count=100))
    assert seen == {"shop-v1": 100}
    until("100 copies", lambda: _logged(play, "shop-v2", mark) == 100)
    assert _logged(play, "shop-v1", mark) == 100


def test_a_delay_is_as_long_as_said_and_only_for_its_user(play: Playground) -> None:
    declare(play, shop(faults=(Fault(percent=100, delay="1.5s", user="jason"),)))
    jason = {"end-user": "jason"}
    until("delay", lambda: ask(play, SHOP, jason)[0].seconds >= 1.5)
    slow, quick = ask(play, SHOP, jason, count=20), ask(play, SHOP, count=20)
    print(f"delay: {min(o.seconds for o in slow)} to {max(o.seconds for o in slow)} s")
    assert {one.status for one in [*slow, *quick]} == {200}
    assert all(1.5 <= one.seconds < 4 for one in slow), slow
    assert all(one.seconds < 1.5 for one in quick), quick


def test_an_abort_has_that_status_for_that_share_of_requests(play: Playground) -> None:
    declare(play, shop(faults=(Fault(percent=30, abort_status=418),)))
    until("abort", lambda: 418 in {one.status for one in ask(play, SHOP, count=30)})
    seen = Counter(one.status for one in ask(play, SHOP, count=1000))
    print(f"abort 30 %: {dict(seen)}")
    assert seen.keys() == {200, 418}
    assert abs(seen[418] - 300) < 4 * math.sqrt(1000 * 0.3 * 0.7), seen


def test_a_users_fault_leaves_him_on_his_version(play: Playground) -> None:
    jason = {"end-user": "jason"}
    one = shop(
        ab=(
            AbRoute(version="v2", by=MatchBy.HEADER, name="x-beta", value="yes"),
            AbRoute(version="v1", by=MatchBy.USER, value="jason"),
        ),
        canary=Canary(stable="v2", canary="v1", weight=0),
        faults=(Fault(percent=100, delay="700ms", user="jason"),),
    )
    declare(play, one)
    until("delay", lambda: ask(play, SHOP, jason)[0].seconds >= 0.7)
    both = ask(play, SHOP, {**jason, "x-beta": "yes"}, count=10)
    alone = ask(play, SHOP, jason, count=10)
    assert all(one.seconds >= 0.7 for one in [*both, *alone])
    assert {one.by for one in both} == {"shop-v2"}
    assert {one.by for one in alone} == {"shop-v1"}
    assert all(one.seconds < 0.7 for one in ask(play, SHOP, {"x-beta": "yes"}, count=10))


def test_neither_timeout_nor_retries_help_against_a_fault(play: Playground) -> None:
    retries = Retries(attempts=5, retry_on="5xx")
    slow = Fault(percent=100, delay="1s", user="slow")
    broken = Fault(percent=50, abort_status=503)
    declare(play, shop(timeout="300ms", retries=retries, faults=(slow, broken)))
    until("abort", lambda: 503 in {one.status for one in ask(play, SHOP, count=20)})
    (late,) = ask(play, SHOP, {"end-user": "slow"})
    assert (late.status, late.seconds >= 1) == (200, True), late
    failed = sum(one.status == 503 for one in ask(play, SHOP, count=200))
    assert abs(failed - 100) < 4 * math.sqrt(50), failed


def test_a_timeout_answers_504_in_its_time(play: Playground) -> None:
    declare(play, shop(timeout="500ms"))
    until("504", lambda: ask(play, f"{SHOP}?delay=2")[0].status == 504)
    seen = ask(play, f"{SHOP}?delay=2", count=10)
    print(f"timeout 500ms: {min(o.seconds for o in seen)} to {max(o.seconds for o in seen)} s")
    assert {one.status for one in seen} == {504}
    assert all(0.5 <= one.seconds < 2 for one in seen), seen
    assert {one.status for one in ask(play, SHOP, count=10)} == {200}


def test_each_try_has_its_own_time(play: Playground) -> None:
    retries = Retries(attempts=2, per_try_timeout="300ms")
    declare(play, shop(timeout="10s", retries=retries))
    until("504", lambda: ask(play, f"{SHOP}?delay=3")[0].status == 504)
    mark = uuid.uuid4().hex
    (seen,) = ask(play, f"{SHOP}?delay=3&{mark}")
    assert seen.status == 504
    assert 0.9 <= seen.seconds < 3, "three tries of 0.3 s"
    until("tries", lambda: sum(_logged(play, f"shop-{v}", mark) for v in ("v1", "v2")) == 3)


def test_retries_hide_a_replica_that_fails(play: Playground) -> None:
    declare(play, flaky(retries=Retries(attempts=0)))
    until("failures", lambda: 503 in {one.status for one in ask(play, FLAKY, count=20)})
    # at once, the balancer would prefer the pod that works: it is the quicker one
    without = Counter(one.status for one in ask(play, FLAKY, count=200, at_once=1))
    declare(play, flaky(retries=Retries(attempts=3)))
    until("no failures", lambda: {o.status for o in ask(play, FLAKY, count=40)} == {200})
    with_them = Counter(one.status for one in ask(play, FLAKY, count=500))
    print(f"retries: without {dict(without)}, with {dict(with_them)}")
    assert without[503] > 50, without
    assert with_them == {200: 500}


def test_the_circuit_breaker_takes_out_a_replica_that_fails_and_takes_it_back(
    play: Playground,
) -> None:
    none = Retries(attempts=0)
    declare(play, flaky(retries=none))
    until("failures", lambda: 503 in {one.status for one in ask(play, FLAKY, count=20)})
    for ejection_time in ("3s", "60s"):
        breaker = CircuitBreaker(consecutive_errors=3, ejection_time=ejection_time)
        declare(play, flaky(retries=none, circuit_breaker=breaker))
        until("ejected", lambda: {o.status for o in ask(play, FLAKY, count=30)} == {200})
        if ejection_time == "3s":
            until("back", lambda: 503 in {one.status for one in ask(play, FLAKY, count=10)})
    seen = Counter(one.status for one in ask(play, FLAKY, count=300))
    print(f"outlier detection: {dict(seen)}")
    assert seen == {200: 300}


def test_the_circuit_breaker_refuses_what_would_only_wait(play: Playground) -> None:
    breaker = CircuitBreaker(max_connections=1, max_pending_requests=1)
    declare(play, shop(retries=Retries(attempts=0), circuit_breaker=breaker))

    def overflow() -> list[Heard]:
        return ask(play, f"{SHOP}?delay=0.5", count=20, at_once=20)

    until("overflow", lambda: 503 in {one.status for one in overflow()})
    seen = overflow()
    refused = [one for one in seen if one.status == 503]
    print(f"overflow: {dict(Counter(one.status for one in seen))}")
    assert refused
    assert all(one.headers.get("x-envoy-overloaded") == "true" for one in refused), refused
    assert all(one.seconds < 0.5 for one in refused), "at once, not after waiting"
    assert {one.status for one in ask(play, SHOP, count=10, at_once=1)} == {200}


def test_istiod_refuses_what_the_refusals_are_about(play: Playground) -> None:
    """Some of them: the others it takes, and they do something else than they say."""
    for one, words in (
        (shop(timeout="0s"), "duration"),
        (shop(retries=Retries(attempts=1, retry_on="5xxx")), "not a valid retryOn policy"),
        (shop(canary=Canary(stable="v1", canary="v2", weight=120)), "weight"),
        (shop(faults=(Fault(percent=120, abort_status=500),)), "percent"),
        (shop(faults=(Fault(percent=20, abort_status=99),)), "status"),
    ):
        assert problems([one], production=False)
        routes = http.virtual_service(one)
        assert routes is not None
        with pytest.raises(Exception, match=words):
            play.apply(istio("VirtualService", "refused", MESH, routes))


def _address(play: Playground, name: str, where: str = OUTSIDE) -> str:
    """Address of the only pod of a Deployment."""
    (pod,) = play.pods(where, f"app={name}")
    return str(pod["status"]["podIP"])


def _way(play: Playground, *hosts: EgressHost) -> None:
    """Write what the component would."""
    assert egress.egress_problems(hosts, has_gateway=True) == []
    root = "istio-system"
    rule = egress.to_gateway(hosts, GATEWAY_HOST)
    if rule is not None:
        play.apply(istio("DestinationRule", "egress-gateway", root, rule))
    for one in hosts:
        selector = {"istio": "egressgateway"}
        play.apply(
            istio("ServiceEntry", one.name, root, egress.service_entry(one)),
            istio("Gateway", one.name, root, egress.gateway(one, selector)),
            istio("VirtualService", one.name, root, egress.virtual_service(one, GATEWAY_HOST)),
        )
        if one.tls is EgressTls.ORIGINATE:
            play.apply(istio("DestinationRule", one.name, root, egress.originate(one)))


@pytest.fixture
def no_way(play: Playground) -> Iterator[None]:
    yield
    kinds = "serviceentry,gateway,virtualservice,destinationrule"
    play.kubectl("-n", "istio-system", "delete", kinds, "--all")


def _logged_by_gateway(play: Playground, word: str) -> list[str]:
    text = play.kubectl("-n", "istio-system", "logs", f"deployment/{GATEWAY}")
    return [line for line in text.splitlines() if word in line]


@pytest.mark.usefixtures("no_way")
def test_egress_goes_through_the_egress_gateway_and_tells_nothing_of_the_inside(
    play: Playground,
) -> None:
    one = EgressHost(host=HOST, port=8080, tls=EgressTls.NONE, address=_address(play, "server"))
    _way(play, one)
    url, mark = f"http://{HOST}:8080/", uuid.uuid4().hex
    until("a way", lambda: ask(play, url)[0].status == 200)
    (seen,) = ask(play, f"{url}?{mark}")
    told = json.loads(seen.body)
    assert told["peer"].rpartition(":")[0] == _address(play, GATEWAY, "istio-system")
    assert told["headers"]["host"] == f"{HOST}:8080"
    client = _address(play, "client", MESH)
    assert "spiffe" not in seen.body
    assert client not in seen.body
    until("its access log", lambda: len(_logged_by_gateway(play, mark)) == 1)
    assert client in _logged_by_gateway(play, mark)[0], "the gateway knows whom it serves"


@pytest.mark.usefixtures("no_way")
def test_tls_of_the_application_passes_the_egress_gateway_undecrypted(play: Playground) -> None:
    host, url = "secure.example.com", "https://secure.example.com:8443/"
    where = _address(play, "secure")
    _way(play, EgressHost(host=host, port=8443, tls=EgressTls.PASSTHROUGH, address=where))
    until("a way", lambda: ask(play, url)[0].status == 200)
    before = len(_logged_by_gateway(play, host))
    (seen,) = ask(play, url)
    assert json.loads(seen.body)["tls"] is True
    until("its access log", lambda: len(_logged_by_gateway(play, host)) > before)


@pytest.mark.usefixtures("no_way")
def test_the_egress_gateway_begins_tls_and_trusts_no_unknown_certificate(play: Playground) -> None:
    one = EgressHost(
        host=HOST, port=8443, tls=EgressTls.ORIGINATE, address=_address(play, "secure")
    )
    _way(play, one)
    url = f"http://{HOST}/"

    why = "CERTIFICATE_VERIFY_FAILED"
    until("a refusal", lambda: ask(play, url)[0].status == 503)
    until("its reason", lambda: any(why in line for line in _logged_by_gateway(play, HOST)))
    rule: Any = egress.originate(one)
    (port,) = rule["trafficPolicy"]["portLevelSettings"]
    # what the lab cannot have: a certificate that the proxy's image trusts
    port["tls"] = {"mode": "SIMPLE", "sni": HOST, "insecureSkipVerify": True}
    play.apply(istio("DestinationRule", one.name, "istio-system", rule))
    until("trust", lambda: ask(play, url)[0].status == 200)
    before = len(_logged_by_gateway(play, HOST))
    assert json.loads(ask(play, url)[0].body)["tls"] is True
    until("its access log", lambda: len(_logged_by_gateway(play, HOST)) > before)


@pytest.mark.usefixtures("play")
def test_a_step_of_a_canary_is_one_setting_and_a_preview_of_two_lines(mesh: Mesh) -> None:
    canary = {"service": "reviews", "stable": "v1", "canary": "v3", "weight": "10"}
    for key, value in canary.items():
        mesh.pulumi("config", "set", "--path", f"canary.{key}", value)
    try:
        assert mesh.up().changes().keys() == {"created", "unchanged"}
        mesh.pulumi("config", "set", "--path", "canary.weight", "25")
        preview = mesh.pulumi("preview", "--diff")
        changes = re.findall(r"weight\s*: \d+ => \d+", preview.out)
        steps = [" ".join(one.split()) for one in changes]
        assert steps == ["weight: 90 => 75", "weight: 10 => 25"]
        assert preview.out.count("=>") == 2, preview.out
        assert preview.changes()["update"] == 1
        assert mesh.up().changes()["updated"] == 1
        named = "--field-selector=metadata.name=reviews"
        (found,) = mesh.get("virtualservices", "-n", "bookinfo", named)
        assert [one["weight"] for one in found["spec"]["http"][0]["route"]] == [75, 25]
    finally:
        mesh.pulumi("config", "rm", "canary")
        assert mesh.up().changes()["deleted"] == 1


@pytest.mark.usefixtures("no_way")
def test_registry_only_refuses_all_hosts_but_the_declared(play: Playground, mesh: Mesh) -> None:
    where = _address(play, "server")
    _way(play, EgressHost(host=HOST, port=8080, tls=EgressTls.NONE, address=where))
    url, direct = f"http://{HOST}:8080/", f"http://{where}:8080/"
    until("a way", lambda: ask(play, url)[0].status == 200)
    assert ask(play, direct)[0].status == 200, "ALLOW_ANY"
    mesh.set("outboundTrafficPolicy", "REGISTRY_ONLY")
    try:
        mesh.up()
        until("a refusal", lambda: ask(play, direct)[0].status == 502)
        assert ask(play, url)[0].status == 200
    finally:
        mesh.set("outboundTrafficPolicy", "ALLOW_ANY")
