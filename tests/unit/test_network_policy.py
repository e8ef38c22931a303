"""NetworkPolicies: both directions closed, the calls open at both ends, and what the mesh needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components import bookinfo
from components.call_graph import Gateway
from components.network_policy import (
    ALLOW_MESH,
    DEFAULT_DENY,
    Destination,
    NetworkPolicies,
    NetworkPoliciesArgs,
    NetworkPolicySpec,
    network_policy_specs,
)
from tests.unit.conftest import Deploy

GATEWAY = Gateway(namespace="edge", account="way-in", labels={"istio": "ingressgateway"})
GRAPH = bookinfo.call_graph("shop", GATEWAY)
HTTP = {"protocol": "TCP", "port": 9080}


def specs(**changes: Any) -> Mapping[str, NetworkPolicySpec]:
    arguments = {"graph": GRAPH, "prometheus_namespace": "watch", **changes}
    return network_policy_specs(NetworkPoliciesArgs(**arguments))


def pods(namespace: str, **labels: str) -> dict[str, Any]:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {key.replace("_", "-"): v for key, v in labels.items()}},
    }


def test_all_pods_are_closed_in_both_directions() -> None:
    assert specs()[DEFAULT_DENY] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_a_service_in_the_middle_lets_in_its_callers_and_out_to_whom_it_calls() -> None:
    assert specs()["reviews"] == {
        "podSelector": {"matchLabels": {"app": "reviews"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "productpage"}}}], "ports": [HTTP]}
        ],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "ratings"}}}], "ports": [HTTP]}],
    }


def test_the_gateway_is_let_in_from_its_namespace_by_its_labels() -> None:
    [rule] = specs()["productpage"]["ingress"]

    assert rule == {"from": [pods("edge", istio="ingressgateway")], "ports": [HTTP]}, (
        "two entries would be all pods of that namespace, or such pods of this one"
    )


def test_a_service_that_calls_nobody_is_let_out_nowhere() -> None:
    assert specs()["ratings"]["policyTypes"] == ["Ingress"]
    assert "egress" not in specs()["ratings"]


def test_without_a_gateway_nothing_comes_in_from_outside() -> None:
    without = specs(graph=bookinfo.call_graph("shop", None))

    assert without["productpage"]["policyTypes"] == ["Egress"]


def test_sidecars_reach_istiod_and_dns_and_are_reached_by_prometheus() -> None:
    assert specs()[ALLOW_MESH] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [pods("watch", app="prometheus")],
                "ports": [
                    {"protocol": "TCP", "port": 15020},
                    {"protocol": "TCP", "port": 15090},
                ],
            }
        ],
        "egress": [
            {
                "to": [pods("kube-system", k8s_app="kube-dns")],
                "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
            },
            {
                "to": [pods("istio-system", app="istiod")],
                "ports": [{"protocol": "TCP", "port": 15012}],
            },
        ],
    }


def test_without_prometheus_nobody_reads_metrics() -> None:
    mesh = specs(prometheus_namespace=None)[ALLOW_MESH]

    assert mesh["policyTypes"] == ["Egress"], "an Ingress without rules would say so twice"
    assert "ingress" not in mesh


def test_ambient_calls_also_come_on_ztunnels_port() -> None:
    ambient = specs(ambient=True)

    hbone = {"protocol": "TCP", "port": 15008}
    assert ambient["ratings"]["ingress"][0]["ports"] == [HTTP, hbone]
    assert ambient["reviews"]["egress"][0]["ports"] == [HTTP, hbone]


def test_ambient_pods_are_probed_through_ztunnel_and_need_no_istiod() -> None:
    mesh = specs(ambient=True)[ALLOW_MESH]

    assert mesh["ingress"] == [
        {"from": [{"ipBlock": {"cidr": "169.254.7.127/32"}}], "ports": [HTTP]}
    ]
    assert [rule["ports"][0]["port"] for rule in mesh["egress"]] == [53]


def test_what_is_declared_outside_of_the_graph_is_reached_by_all_and_nothing_else() -> None:
    jaeger = Destination(namespace="watch", labels={"app": "jaeger"}, ports=(4317,))
    anywhere = Destination(namespace="legacy", labels={}, ports=(80, 443))
    mesh = specs(destinations=(jaeger, anywhere))[ALLOW_MESH]

    assert mesh["egress"][2:] == [
        {"to": [pods("watch", app="jaeger")], "ports": [{"protocol": "TCP", "port": 4317}]},
        {
            "to": [{**pods("legacy"), "podSelector": {}}],
            "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 443}],
        },
    ]


def test_no_rule_opens_a_port_to_everybody() -> None:
    """An absent or empty `from`, `to` or `ports` is anybody, anywhere, any port."""
    for name, spec in {**specs(), **specs(ambient=True)}.items():
        for rule in spec.get("ingress", []):
            assert all((rule["from"], rule["ports"])), name
        for out in spec.get("egress", []):
            assert all((out["to"], out["ports"])), name


def test_the_objects_are_the_specs_and_the_denial_comes_last(deploy: Deploy) -> None:
    args = NetworkPoliciesArgs(graph=GRAPH, prometheus_namespace=None)
    deployed = deploy(lambda opts: NetworkPolicies("network", args, opts))

    found = deployed.of_kind("NetworkPolicy")
    assert {one.type for one in found} == {"kubernetes:networking.k8s.io/v1:NetworkPolicy"}
    assert {one.inputs["metadata"]["namespace"] for one in found} == {"shop"}
    written = {one.inputs["metadata"]["name"]: one.inputs["spec"] for one in found}
    assert written == network_policy_specs(args)
    others = {f"network-{name}" for name in written if name != DEFAULT_DENY}
    assert others <= deployed.waits_for(f"network-{DEFAULT_DENY}")
    assert deployed.outputs[deployed.named("network").urn] == {
        "policies": list(network_policy_specs(args))
    }
