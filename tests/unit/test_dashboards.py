"""Dashboards: every query asks for what Istio emits, and the JSON holds what the table says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import promql_parser as promql
import pytest

from components.observability.dashboard_json import render
from components.observability.dashboards import (
    ALL,
    MESH,
    MTLS,
    NAMESPACES,
    Dashboard,
    Kind,
    Panel,
    Query,
)

# https://istio.io/latest/docs/reference/config/metrics/
_SIDES = {
    f"{side}_{what}"
    for side in ("source", "destination")
    for what in (
        "app",
        "canonical_revision",
        "canonical_service",
        "cluster",
        "principal",
        "version",
        "workload",
        "workload_namespace",
    )
}
_EVERY = _SIDES | {
    "connection_security_policy",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "reporter",
    "request_protocol",
    "response_flags",
}
_HTTP = _EVERY | {"grpc_response_status", "response_code"}

STANDARD: dict[str, set[str]] = {
    "istio_requests_total": _HTTP,
    **{
        f"istio_{what}_{part}": _HTTP | ({"le"} if part == "bucket" else set())
        for what in ("request_duration_milliseconds", "request_bytes", "response_bytes")
        for part in ("bucket", "count", "sum")
    },
    "istio_request_messages_total": _HTTP,
    "istio_response_messages_total": _HTTP,
    "istio_tcp_sent_bytes_total": _EVERY,
    "istio_tcp_received_bytes_total": _EVERY,
    "istio_tcp_connections_opened_total": _EVERY,
    "istio_tcp_connections_closed_total": _EVERY,
}
"""Istio's standard metrics and their labels."""

REPORTERS = {"source", "destination"}
POLICIES = {"mutual_tls"}


@dataclass(slots=True)
class Asked:
    """What an expression asks for."""

    metrics: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    values: set[tuple[str, str]] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)


def asked(query: Query) -> Asked:
    """Read an expression with a parser of PromQL.

    Raises:
        ValueError: It is no PromQL.
    """
    found = Asked(variables=set(re.findall(r"\$\w+", query.expr)))
    expr = query.expr.replace("$__rate_interval", "4m").replace("$__range", "1h")

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.MatrixSelector):
            selectors = [node.vector_selector]
        else:
            selectors = [node] if isinstance(node, promql.VectorSelector) else []
        for selector in selectors:
            found.metrics.add(str(selector.name))
            for matcher in selector.matchers.matchers:
                found.labels.add(matcher.name)
                found.values.add((matcher.name, matcher.value))
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            found.labels.update(node.modifier.labels)
        return True

    promql.walk(promql.parse(expr), visit)
    return found


def grouped_by(query: Query) -> list[str]:
    """The labels that are left of its series: those of its first aggregation."""
    first = re.search(r"sum(?: by \(([^)]*)\))?", query.expr)
    assert first, query.expr
    return (first[1] or "").split(", ") if first[1] else []


def queries() -> Iterator[tuple[str, Panel, Query]]:
    for dashboard in ALL:
        for panel in dashboard.panels:
            for query in panel.queries:
                yield f"{dashboard.uid}/{panel.title}/{query.title}", panel, query


EVERY_QUERY = [pytest.param(panel, query, id=where) for where, panel, query in queries()]


def problems(query: Query) -> list[str]:
    """What is in it that Istio does not emit, or Grafana does not fill in."""
    found = asked(query)
    known = [STANDARD.get(metric) for metric in found.metrics]
    labels = set.intersection(*(one for one in known if one is not None)) if any(known) else set()
    return sorted(
        {
            *(f"no metric {one}" for one in found.metrics - STANDARD.keys()),
            *(f"no label {one}" for one in found.labels - labels),
            *(
                f"no reporter {v}"
                for k, v in found.values
                if k == "reporter" and v not in REPORTERS
            ),
            *(
                f"no policy {value}"
                for label, value in found.values
                if label == "connection_security_policy" and value not in POLICIES
            ),
            *(
                f"no variable {one}"
                for one in found.variables - {"$namespace", "$__range", "$__rate_interval"}
            ),
        }
    )


@pytest.mark.parametrize(("panel", "query"), EVERY_QUERY)
def test_every_query_asks_for_standard_metrics_and_their_labels_only(
    panel: Panel, query: Query
) -> None:
    assert not problems(query), panel.title


@pytest.mark.parametrize(
    ("expr", "problem"),
    [
        ("sum(rate(istio_request_total[4m]))", "no metric istio_request_total"),
        ('sum(rate(istio_requests_total{reporter="server"}[4m]))', "no reporter server"),
        ("sum by (workload) (rate(istio_requests_total[4m]))", "no label workload"),
        ('istio_tcp_sent_bytes_total{response_code="200"}', "no label response_code"),
        (
            'istio_requests_total{connection_security_policy="mutual"}',
            "no policy mutual",
        ),
        ('istio_requests_total{source_app="$app"}', "no variable $app"),
    ],
)
def test_a_query_for_what_istio_does_not_emit_is_noticed(expr: str, problem: str) -> None:
    assert problem in problems(Query(expr=expr))


def test_a_query_that_is_no_promql_is_noticed() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        asked(Query(expr="sum(rate(istio_requests_total[4m])"))


@pytest.mark.parametrize(("panel", "query"), EVERY_QUERY)
def test_every_query_is_about_the_namespaces_that_are_chosen(panel: Panel, query: Query) -> None:
    selectors = re.findall(r"istio_\w+\{([^}]*)\}", query.expr)

    assert selectors, panel.title
    for selector in selectors:
        assert 'destination_workload_namespace=~"$namespace"' in selector
        assert 'reporter="' in selector, "or a request counts twice, once at each end"


@pytest.mark.parametrize(("panel", "query"), EVERY_QUERY)
def test_lines_and_columns_are_named_after_labels_that_are_there(
    panel: Panel, query: Query
) -> None:
    left = grouped_by(query)

    assert set(re.findall(r"\{\{(\w+)\}\}", query.title)) <= set(left)
    if panel.kind is Kind.TABLE:
        assert left == list(panel.labels), "merged tables are joined by the same labels"
        assert query.title
    if panel.kind is Kind.STAT:
        assert not left, "one figure"


def test_what_is_no_mutual_tls_is_plaintext() -> None:
    """`none` is what a server says of plaintext; but `unknown` is not mutual TLS either."""
    for panel in MTLS.panels:
        for query in panel.queries:
            assert 'connection_security_policy="' not in query.expr, panel.title


def test_coverage_is_what_servers_saw() -> None:
    for panel in MTLS.panels:
        if panel.title != "Edges that no server reports":
            for query in panel.queries:
                assert 'reporter="source"' not in query.expr, "a client's proxy cannot know"


def shown(dashboard: Dashboard) -> dict[str, dict[str, Any]]:
    return {panel["title"]: panel for panel in json.loads(render(dashboard))["panels"]}


@pytest.mark.parametrize("dashboard", ALL, ids=lambda dashboard: dashboard.uid)
def test_the_json_holds_every_panel_with_its_queries(dashboard: Dashboard) -> None:
    panels = shown(dashboard)

    assert len(panels) == len(dashboard.panels) + len(dashboard.sections), "titles are unique"
    for panel in dashboard.panels:
        one = panels[panel.title]
        assert one["type"] == panel.kind.value
        assert [target["expr"] for target in one["targets"]] == [q.expr for q in panel.queries]
        assert {target["datasource"]["uid"] for target in one["targets"]} == {"$datasource"}
        assert {target["instant"] for target in one["targets"]} == {
            panel.kind is not Kind.TIME_SERIES
        }
        assert one["fieldConfig"]["defaults"]["unit"] == panel.unit.value
    assert [panels[section.title]["type"] for section in dashboard.sections] == ["row"] * len(
        dashboard.sections
    )
    numbers = [panel["id"] for panel in panels.values()]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("dashboard", ALL, ids=lambda dashboard: dashboard.uid)
def test_panels_fill_the_page_and_do_not_lie_on_one_another(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for title, panel in shown(dashboard).items():
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, title
        assert place["x"] + place["w"] <= 24, title
        taken |= cells
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height, "no holes"


@pytest.mark.parametrize("dashboard", ALL, ids=lambda dashboard: dashboard.uid)
def test_variables_are_a_prometheus_and_the_namespaces_of_its_requests(
    dashboard: Dashboard,
) -> None:
    source, namespace = json.loads(render(dashboard))["templating"]["list"]

    assert (source["name"], source["type"], source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert (namespace["name"], namespace["query"]) == ("namespace", NAMESPACES)
    assert namespace["current"]["value"] == "$__all"
    assert namespace["allValue"] == ".*"
    called = re.fullmatch(r"label_values\((\w+), (\w+)\)", NAMESPACES)
    assert called
    assert called[2] in STANDARD[called[1]]


def test_the_json_is_the_same_each_time() -> None:
    assert render(MTLS) == render(MTLS), "or every preview would show a change"


def test_tables_name_every_column() -> None:
    table = shown(MTLS)["Requests by edge"]

    organize = table["transformations"][-1]["options"]
    assert organize["renameByName"] == {
        "source_workload_namespace": "From workload namespace",
        "source_workload": "From workload",
        "destination_workload_namespace": "To workload namespace",
        "destination_workload": "To workload",
        "Value #A": "Requests",
        "Value #B": "Mutual TLS",
    }
    assert organize["excludeByName"] == {"Time": True}
    [override] = table["fieldConfig"]["overrides"]
    assert override["matcher"] == {"id": "byName", "options": "Mutual TLS"}
    assert table["options"]["sortBy"] == [{"desc": False, "displayName": "Mutual TLS"}]


def test_less_than_all_is_red() -> None:
    stat = shown(MTLS)["Requests by mutual TLS"]

    assert stat["fieldConfig"]["defaults"]["thresholds"]["steps"] == [
        {"color": "red", "value": None},
        {"color": "green", "value": 1},
    ]
    assert stat["options"]["colorMode"] == "background"


def test_what_a_mesh_is_judged_by_has_a_panel() -> None:
    """Request rate, errors, latency and TCP bytes; coverage, edges, and what is in clear."""
    assert {panel.title for panel in MESH.panels} >= {
        "Request rate",
        "Share of answers 5xx",
        "Latency, p50",
        "Latency, p90",
        "Latency, p99",
        "Received",
        "Sent",
    }
    assert {panel.title for panel in MTLS.panels} >= {
        "Requests by mutual TLS",
        "TCP connections by mutual TLS",
        "Requests by edge",
        "TCP connections by edge",
        "Plaintext edges",
    }
