"""The call graph: what it refuses, who a client is, and what is made of it without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from components.call_graph import (
    INGRESS,
    Call,
    CallGraph,
    Gateway,
    Operation,
    Service,
    edges,
    mermaid,
)

GATEWAY = Gateway(namespace="edge", account="way-in", labels={"istio": "ingressgateway"})
WEB = Service(name="web", port=8080, account="web-account")
DB = Service(name="db", port=5432, account="db-account")
IN, QUERY = Call(client=INGRESS, server="web"), Call(client="web", server="db")


def graph(**changes: Any) -> CallGraph:
    return CallGraph(
        **{
            "namespace": "shop",
            "services": (WEB, DB),
            "calls": (IN, QUERY),
            "gateway": GATEWAY,
            **changes,
        }
    )


def operation(**changes: Any) -> tuple[Call, ...]:
    return (Call(client="web", server="db", operations=(Operation(**changes),)),)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"calls": (Call(client="wep", server="db"),)}, "wep -> db: wep is no service"),
        ({"calls": (Call(client="web", server="bd"),)}, "web -> bd: bd is no service"),
        ({"calls": (Call(client="web", server=INGRESS),)}, "ingress is no service"),
        ({"calls": (IN,), "gateway": None}, "ingress -> web: there is no ingress gateway"),
        ({"calls": (QUERY, QUERY)}, "web -> db stands there 2 times"),
        ({"calls": (Call(client="web", server="web"),)}, "web -> web: .* does not call itself"),
        ({"services": (WEB, DB, DB)}, "db is 2 services"),
        (
            {"services": (Service(name=INGRESS, port=1, account="x"),), "calls": ()},
            "cannot be a service",
        ),
        (
            {"services": (WEB, Service(name="db", port=1, account="web-account"))},
            "db and web share the account web-account",
        ),
        ({"services": (WEB, Service(name="db", port=0, account="db"))}, "port 0 of db"),
        ({"services": (WEB, Service(name="db", port=65536, account="db"))}, "port 65536 of db"),
        ({"gateway": Gateway(namespace="edge", account="x", labels={})}, "has no labels"),
        ({"calls": operation(methods=("get",))}, "method 'get' would match nothing"),
        ({"calls": operation(methods=("*",))}, r"method '\*' would match nothing"),
        ({"calls": operation(paths=("details",))}, "path 'details' would match nothing"),
        ({"calls": operation(paths=("/a/*/b",))}, "would match nothing"),
        ({"calls": operation(paths=("*/b/*",))}, "would match nothing"),
        ({"calls": operation(paths=("/a?b=c",))}, "would match nothing"),
        ({"calls": operation(paths=("",))}, "path '' would match nothing"),
    ],
)
def test_a_graph_that_would_not_mean_what_it_says_is_refused(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        graph(**changes)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"a is no service.*; .*b is no service"):
        graph(calls=(Call(client="a", server="b"),))


@pytest.mark.parametrize("path", ["/", "/exact", "/prefix/*", "/prefix*", "*.css", "*", "/*"])
def test_istios_ways_to_write_a_path_are_taken(path: str) -> None:
    assert graph(calls=operation(methods=("GET", "POST"), paths=(path,)))


def test_a_client_is_known_by_its_account_and_the_gateway_by_its_own() -> None:
    assert graph().principal("web") == "cluster.local/ns/shop/sa/web-account"
    assert graph().principal(INGRESS) == "cluster.local/ns/edge/sa/way-in"
    assert graph(trust_domain="corp").principal("db") == "corp/ns/shop/sa/db-account"


def test_nobody_has_an_identity_who_is_not_in_the_graph() -> None:
    with pytest.raises(KeyError):
        graph().principal("wep")
    with pytest.raises(KeyError):
        graph(calls=(QUERY,), gateway=None).principal(INGRESS)


def test_calls_are_found_from_both_ends() -> None:
    assert graph().callers("db") == (QUERY,)
    assert graph().callees("web") == (QUERY,)
    assert graph().callees("db") == ()


def test_edges_are_what_tlscheck_takes() -> None:
    assert edges(graph()) == [
        {"client": "edge/way-in-*", "server": "web.shop"},
        {"client": "shop/web-*", "server": "db.shop"},
    ]


def test_the_picture_has_every_service_and_every_call() -> None:
    assert mermaid(graph(), {(INGRESS, "web"): 'mutual "TLS"\nGET /'}) == "\n".join(
        [
            "flowchart LR",
            '    svc_ingress(["ingress gateway"])',
            '    svc_web["web<br/>port 8080"]',
            '    svc_db["db<br/>port 5432"]',
            '    svc_ingress -->|"mutual #quot;TLS#quot;<br/>GET /"| svc_web',
            "    svc_web -.-> svc_db",
        ]
    )


def test_the_picture_of_a_graph_without_a_way_in_shows_none() -> None:
    assert "gateway" not in mermaid(graph(calls=(QUERY,), gateway=None), {})
