"""Hosts outside: known to the mesh, reached through the egress gateway and no other way."""

from __future__ import annotations

import re
from typing import Any

import pytest

from components.traffic import Egress, EgressArgs, EgressHost, EgressTls, egress_problems
from components.traffic.egress import (
    gateway,
    originate,
    service_entry,
    to_gateway,
    virtual_service,
)
from tests.unit.conftest import Deploy

GATEWAY = "istio-egressgateway.istio-system.svc.cluster.local"
SELECTOR = {"istio": "egressgateway"}
PLAIN = EgressHost(host="api.example.com", port=8080, tls=EgressTls.NONE)
PASSED = EgressHost(host="www.example.com", port=443, tls=EgressTls.PASSTHROUGH)
ORIGINATED = EgressHost(host="db.example.com", port=443, tls=EgressTls.ORIGINATE)
ALL = (PLAIN, PASSED, ORIGINATED)


def host(**changes: Any) -> EgressHost:
    return EgressHost(**{"host": "api.example.com", "port": 443, "tls": EgressTls.NONE, **changes})


def test_a_host_outside_is_known_by_the_ports_that_are_used_on_the_way() -> None:
    assert [
        [(port["number"], port["protocol"]) for port in service_entry(one)["ports"]] for one in ALL
    ] == [[(8080, "HTTP")], [(443, "TLS")], [(80, "HTTP"), (443, "HTTPS")]]
    assert all(service_entry(one)["location"] == "MESH_EXTERNAL" for one in ALL)


@pytest.mark.parametrize(
    ("address", "resolution", "endpoints"),
    [
        (None, "DNS", None),
        ("db.internal.example.com", "DNS", [{"address": "db.internal.example.com"}]),
        ("192.0.2.7", "STATIC", [{"address": "192.0.2.7"}]),
        ("2001:db8::7", "STATIC", [{"address": "2001:db8::7"}]),
    ],
)
def test_where_it_really_is_can_be_said(
    address: str | None, resolution: str, endpoints: list[dict[str, str]] | None
) -> None:
    spec = service_entry(host(address=address))
    assert (spec["resolution"], spec.get("endpoints")) == (resolution, endpoints)


@pytest.mark.parametrize("one", [PLAIN, ORIGINATED])
def test_what_the_gateway_decrypts_comes_to_it_in_mutual_tls(one: EgressHost) -> None:
    [server] = gateway(one, SELECTOR)["servers"]
    assert server["tls"] == {"mode": "ISTIO_MUTUAL"}
    rule = to_gateway([one], GATEWAY)
    assert rule is not None
    [subset] = rule["subsets"]
    [port] = subset["trafficPolicy"]["portLevelSettings"]
    assert port["tls"] == {"mode": "ISTIO_MUTUAL", "sni": one.host}, "a gateway tells hosts by it"
    routes = virtual_service(one, GATEWAY)["http"]
    assert routes[0]["route"][0]["destination"] == {
        "host": GATEWAY,
        "subset": subset["name"],
        "port": port["port"],
    }


def test_what_the_application_encrypts_is_passed_on_by_its_name() -> None:
    [server] = gateway(PASSED, SELECTOR)["servers"]
    assert (server["port"]["protocol"], server["tls"]) == ("TLS", {"mode": "PASSTHROUGH"})
    assert to_gateway([PASSED], GATEWAY) is None
    spec = virtual_service(PASSED, GATEWAY)
    assert "http" not in spec
    assert [one["match"][0]["sniHosts"] for one in spec["tls"]] == [["www.example.com"]] * 2


@pytest.mark.parametrize("one", ALL)
def test_the_way_leads_to_the_gateway_first_and_from_there_to_the_host(one: EgressHost) -> None:
    spec = virtual_service(one, GATEWAY)
    out, on = spec["tls"] if "tls" in spec else spec["http"]

    assert spec["gateways"] == ["mesh", one.name]
    assert out["match"][0]["gateways"] == ["mesh"]
    assert out["match"][0]["port"] == one.asked_port
    assert out["route"][0]["destination"]["host"] == GATEWAY
    assert on["match"][0]["gateways"] == [one.name]
    assert on["route"][0]["destination"] == {"host": one.host, "port": {"number": one.port}}


@pytest.mark.parametrize("one", [PLAIN, ORIGINATED])
def test_nobody_outside_is_told_of_the_pods(one: EgressHost) -> None:
    _, on = virtual_service(one, GATEWAY)["http"]
    removed = on["headers"]["request"]["remove"]
    assert {"x-forwarded-client-cert", "x-forwarded-for"} <= set(removed)


def test_tls_that_the_gateway_begins_is_for_that_host_and_no_other() -> None:
    [port] = originate(ORIGINATED)["trafficPolicy"]["portLevelSettings"]
    assert port == {
        "port": {"number": 443},
        "tls": {"mode": "SIMPLE", "sni": "db.example.com", "subjectAltNames": ["db.example.com"]},
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"host": "reviews.bookinfo.svc.cluster.local"}, "is a service of the cluster"),
        ({"host": "reviews.bookinfo.svc"}, "is a service of the cluster"),
        ({"host": "example"}, "'example' is no full DNS name"),
        ({"host": "*.example.com"}, "no full DNS name"),
        ({"host": "API.example.com"}, "no full DNS name in small letters"),
        ({"host": "192.0.2.1"}, "no full DNS name"),
        ({"host": ".".join(["a" * 60] * 5)}, "no full DNS name"),
        ({"port": 0}, "port 0 of api.example.com is not 1 to 65535"),
        ({"port": 65536}, "port 65536"),
        ({"port": 80, "tls": EgressTls.ORIGINATE}, "is asked on port 80"),
        ({"address": "somewhere"}, "'somewhere' of api.example.com is no address or DNS name"),
    ],
)
def test_a_host_that_cannot_be_reached_so_is_refused(changes: dict[str, Any], problem: str) -> None:
    [found] = egress_problems([host(**changes)], has_gateway=True)
    assert found.startswith("egressHosts: ")
    assert re.search(problem, found), found


def test_a_host_is_said_once() -> None:
    [found] = egress_problems([host(), host(port=8443)], has_gateway=True)
    assert found == "egressHosts: api.example.com is said 2 times"


def test_there_is_no_way_out_without_the_gateway() -> None:
    [found] = egress_problems(ALL, has_gateway=False)
    assert found == "egressHosts: they need the egress gateway, which is not installed"
    assert egress_problems([], has_gateway=False) == []
    assert egress_problems(ALL, has_gateway=True) == []


def args(*hosts: EgressHost) -> EgressArgs:
    return EgressArgs(hosts=hosts, gateway_selector=SELECTOR, gateway_service="istio-egressgateway")


def test_everything_stands_beside_the_gateway_and_the_way_is_opened_last(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: Egress("outside", args(*ALL), opts))

    istio = [one for one in deployed.resources if "istio.io/" in one.type]
    assert {one.inputs["metadata"]["namespace"] for one in istio} == {"istio-system"}
    for one in ALL:
        waits = deployed.waits_for(f"outside-{one.host}-routes")
        assert {f"outside-{one.host}-entry", f"outside-{one.host}-gateway"} <= waits
    assert "outside-to-gateway" in deployed.waits_for("outside-api.example.com-routes")
    assert "outside-db.example.com-tls" in deployed.waits_for("outside-db.example.com-routes")
    assert deployed.outputs[deployed.named("outside").urn] == {"hosts": [one.host for one in ALL]}


def test_all_that_sidecars_need_to_know_of_the_gateway_is_one_rule(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: Egress("outside", args(*ALL), opts))
    rules = [
        one for one in deployed.of_kind("DestinationRule") if one.inputs["spec"]["host"] == GATEWAY
    ]
    assert len(rules) == 1, "of several rules for one host Istio may overlook some"
    assert len(rules[0].inputs["spec"]["subsets"]) == 2


def test_problems_stop_the_component() -> None:
    with pytest.raises(ValueError, match="is said 2 times"):
        args(host(), host())
