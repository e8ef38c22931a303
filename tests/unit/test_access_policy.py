"""AuthorizationPolicies: one a server, one that closes the rest, in the order that harms nobody."""

from __future__ import annotations

import pytest

from components import bookinfo
from components.access_policy import (
    ALLOW_NOTHING,
    AccessMode,
    AccessPolicy,
    AccessPolicyArgs,
    access_specs,
)
from components.call_graph import Call, CallGraph, Gateway, Operation, Service
from tests.unit.conftest import Deploy, Deployed
from tests.unit.test_istio_schemas import validate

GATEWAY = Gateway(
    namespace="istio-system", account="istio-ingressgateway", labels={"istio": "ingressgateway"}
)
GRAPH = bookinfo.call_graph("shop", GATEWAY)


def access(deploy: Deploy, mode: AccessMode, graph: CallGraph = GRAPH) -> Deployed:
    args = AccessPolicyArgs(graph=graph, mode=mode)
    return deploy(lambda opts: AccessPolicy("access", args, opts))


def test_a_server_lets_in_whom_the_graph_names_with_what_it_names() -> None:
    assert access_specs(GRAPH)["reviews"] == {
        "selector": {"matchLabels": {"app": "reviews"}},
        "action": "ALLOW",
        "rules": [
            {
                "from": [
                    {"source": {"principals": ["cluster.local/ns/shop/sa/bookinfo-productpage"]}}
                ],
                "to": [
                    {"operation": {"ports": ["9080"], "methods": ["GET"], "paths": ["/reviews/*"]}}
                ],
            }
        ],
    }


def test_the_gateway_is_let_in_by_its_own_identity_with_two_kinds_of_requests() -> None:
    [rule] = access_specs(GRAPH)["productpage"]["rules"]

    gateway = "cluster.local/ns/istio-system/sa/istio-ingressgateway"
    assert rule["from"] == [{"source": {"principals": [gateway]}}]
    assert [one["operation"]["methods"] for one in rule["to"]] == [["GET"], ["POST"]]
    assert rule["to"][1]["operation"]["paths"] == ["/login"]


def test_two_callers_of_a_server_are_two_rules() -> None:
    """In one rule each of them might send what the other may."""
    services = tuple(Service(name=name, port=80, account=name) for name in ("a", "b", "c"))
    calls = (
        Call(client="a", server="c", operations=(Operation(methods=("GET",)),)),
        Call(client="b", server="c", operations=(Operation(paths=("/b",)),)),
    )
    graph = CallGraph(namespace="shop", services=services, calls=calls, gateway=None)

    assert access_specs(graph)["c"]["rules"] == [
        {
            "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/a"]}}],
            "to": [{"operation": {"ports": ["80"], "methods": ["GET"]}}],
        },
        {
            "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/b"]}}],
            "to": [{"operation": {"ports": ["80"], "paths": ["/b"]}}],
        },
    ]


def test_a_call_of_any_request_is_still_of_one_port() -> None:
    services = tuple(Service(name=name, port=5432, account=name) for name in ("a", "db"))
    calls = (Call(client="a", server="db"),)
    graph = CallGraph(namespace="shop", services=services, calls=calls, gateway=None)

    [rule] = access_specs(graph)["db"]["rules"]
    assert rule["to"] == [{"operation": {"ports": ["5432"]}}]


def test_a_service_that_nobody_calls_has_no_policy_of_its_own() -> None:
    specs = access_specs(bookinfo.call_graph("shop", None))

    assert "productpage" not in specs, "allow-nothing closes it"
    assert list(specs) == ["details", "ratings", "reviews", ALLOW_NOTHING]


def test_everything_else_in_the_namespace_is_closed() -> None:
    assert access_specs(GRAPH)[ALLOW_NOTHING] == {}, "a selector or a rule would open something"


def test_the_denial_comes_after_all_that_is_allowed(deploy: Deploy) -> None:
    deployed = access(deploy, AccessMode.ENFORCE)

    allowed = {f"access-{server}" for server in ("productpage", "details", "reviews", "ratings")}
    assert allowed <= deployed.waits_for(f"access-{ALLOW_NOTHING}")
    for one in allowed:
        assert f"access-{ALLOW_NOTHING}" not in deployed.waits_for(one)


@pytest.mark.parametrize(
    ("mode", "annotation"), [(AccessMode.DRY_RUN, "true"), (AccessMode.ENFORCE, None)]
)
def test_a_dry_run_is_one_of_every_policy(
    deploy: Deploy, mode: AccessMode, annotation: str | None
) -> None:
    found = access(deploy, mode).of_kind("AuthorizationPolicy")

    assert len(found) == 5
    for one in found:
        metadata = one.inputs["metadata"]
        assert metadata["annotations"].get("istio.io/dry-run") == annotation, metadata["name"]
        assert metadata["namespace"] == "shop"


def test_switched_off_there_is_no_policy(deploy: Deploy) -> None:
    assert not access(deploy, AccessMode.OFF).of_kind("AuthorizationPolicy")


def test_outputs_tell_who_may_call_whom(deploy: Deploy) -> None:
    deployed = access(deploy, AccessMode.ENFORCE)

    assert deployed.outputs[deployed.named("access").urn] == {
        "mode": "enforce",
        "policies": {
            "details": "productpage",
            "ratings": "reviews",
            "reviews": "productpage",
            "productpage": "ingress",
            ALLOW_NOTHING: "nobody",
        },
    }


def test_the_policies_fit_the_crd(deploy: Deploy) -> None:
    found = access(deploy, AccessMode.ENFORCE).of_kind("AuthorizationPolicy")

    assert {one.inputs["metadata"]["name"] for one in found} == set(access_specs(GRAPH))
    for one in found:
        validate(dict(one.inputs))
