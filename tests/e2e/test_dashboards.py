"""Every query of every dashboard, evaluated by Prometheus itself on series as Istio emits them.

Needs no cluster: `promtool test rules` is Prometheus' own engine over series written down here.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.observability.dashboards import ALL, Dashboard, Query
from lab import toolchain

pytestmark = pytest.mark.e2e

MINUTES = 20
"""When the queries are asked; the series have a value each minute from 0 on."""

GRAFANA = {"$namespace": ".*", "$__rate_interval": "4m", "$__range": "10m"}
"""What Grafana would put for its variables."""

Labels = tuple[tuple[str, str], ...]
Result = dict[Labels, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """Who calls whom, as Istio's labels tell it."""

    source: str
    destination: str

    def labels(self) -> dict[str, str]:
        return {
            **_workload("source", self.source),
            **_workload("destination", self.destination),
        }


def _workload(side: str, name: str) -> dict[str, str]:
    namespace = {"unknown": "unknown", "gateway": "istio-system"}.get(name, "bookinfo")
    return {f"{side}_workload": name, f"{side}_workload_namespace": namespace}


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One series of one proxy."""

    edge: Edge
    values: str
    """In promtool's words: 0+60x20 grows by 60 each minute."""

    metric: str = "istio_requests_total"
    reporter: str = "destination"
    policy: str = "mutual_tls"
    code: str = "200"
    flags: str = "-"
    le: str | None = None

    def written(self) -> dict[str, str]:
        labels = {
            **self.edge.labels(),
            "reporter": self.reporter,
            # a client's proxy does not know
            "connection_security_policy": self.policy
            if self.reporter == "destination"
            else "unknown",
            "response_flags": self.flags,
            "app": self.edge.destination,
        }
        if "_tcp_" not in self.metric:
            labels["response_code"] = self.code
        if self.le is not None:
            labels["le"] = self.le
        inside = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(labels.items()))
        return {"series": f"{self.metric}{{{inside}}}", "values": self.values}


PAGE = Edge(source="gateway", destination="productpage")
REVIEWS = Edge(source="productpage", destination="reviews")
STRANGER = Edge(source="unknown", destination="reviews")
WITHOUT_SIDECAR = Edge(source="productpage", destination="ratings")
LONG_AGO = Edge(source="unknown", destination="details")
DATABASE = Edge(source="reviews", destination="mongodb")
DATABASE_IN_CLEAR = Edge(source="unknown", destination="mongodb")

_LATENCY = "istio_request_duration_milliseconds_bucket"
_OPENED = "istio_tcp_connections_opened_total"

SERIES = [
    Series(edge=PAGE, values="0+30x20"),
    Series(edge=PAGE, values="0+30x20", reporter="source"),
    Series(edge=REVIEWS, values="0+60x20"),
    Series(edge=REVIEWS, values="0+60x20", reporter="source"),
    Series(edge=REVIEWS, values="0+6x20", code="503"),
    Series(edge=REVIEWS, values="0+3x20", reporter="source", code="503", flags="UF"),
    # one request, which came within the time range: no value of it was ever smaller
    Series(edge=STRANGER, values="_x15 1x5", policy="none"),
    Series(edge=LONG_AGO, values="5x20", policy="none"),
    Series(edge=WITHOUT_SIDECAR, values="0+30x20", reporter="source"),
    *(
        Series(edge=REVIEWS, values=values, metric=_LATENCY, le=le)
        for le, values in (("10", "0+30x20"), ("100", "0+54x20"), ("+Inf", "0+60x20"))
    ),
    Series(edge=DATABASE, values="0+6x20", metric=_OPENED),
    Series(edge=DATABASE_IN_CLEAR, values="0+6x20", metric=_OPENED, policy="none"),
    Series(edge=DATABASE, values="0+6000x20", metric="istio_tcp_sent_bytes_total"),
    Series(edge=DATABASE, values="0+600x20", metric="istio_tcp_received_bytes_total"),
]


def total(value: float) -> Result:
    return {(): value}


def by_server(**values: float) -> Result:
    return {
        tuple(sorted(_workload("destination", name).items())): value
        for name, value in values.items()
    }


def by_edge(*rows: tuple[Edge, float]) -> Result:
    return {tuple(sorted(edge.labels().items())): value for edge, value in rows}


EXPECTED: dict[tuple[str, str], list[Result]] = {
    ("mesh", "Requests"): [total(1.6)],
    ("mesh", "Answers 5xx"): [total(0.063)],
    ("mesh", "TCP, both directions"): [total(110)],
    ("mesh", "Request rate"): [by_server(productpage=0.5, reviews=1.1, details=0)],
    ("mesh", "Share of answers 5xx"): [by_server(productpage=0, reviews=0.091)],
    ("mesh", "Latency, p50"): [by_server(reviews=10)],
    ("mesh", "Latency, p90"): [by_server(reviews=100)],
    ("mesh", "Latency, p99"): [by_server(reviews=100)],
    ("mesh", "Failures that clients see"): [
        {
            tuple(sorted([*labels, ("response_code", "503"), ("response_flags", "UF")])): value
            for labels, value in by_server(reviews=0.05).items()
        }
    ],
    ("mesh", "Received"): [by_server(mongodb=10)],
    ("mesh", "Sent"): [by_server(mongodb=100)],
    # one of 961 requests was not
    ("mtls", "Requests by mutual TLS"): [total(0.999)],
    ("mtls", "Requests by mutual TLS, by server"): [by_server(productpage=1, reviews=1)],
    ("mtls", "TCP connections by mutual TLS"): [total(0.5)],
    ("mtls", "TCP connections by mutual TLS, by server"): [by_server(mongodb=0.5)],
    ("mtls", "Plaintext edges"): [by_edge((STRANGER, 1)), by_edge((DATABASE_IN_CLEAR, 60))],
    ("mtls", "Edges that no server reports"): [by_edge((WITHOUT_SIDECAR, 300))],
    ("mtls", "Requests by edge"): [
        by_edge((PAGE, 300), (REVIEWS, 660), (STRANGER, 1)),
        by_edge((PAGE, 1), (REVIEWS, 1), (STRANGER, 0)),
    ],
    ("mtls", "TCP connections by edge"): [
        by_edge((DATABASE, 60), (DATABASE_IN_CLEAR, 60)),
        by_edge((DATABASE, 1), (DATABASE_IN_CLEAR, 0)),
    ],
}


def asked(query: Query) -> str:
    """The query as Grafana sends it, to three digits: releases differ in the last bits."""
    expr = query.expr
    for variable, value in GRAFANA.items():
        expr = expr.replace(variable, value)
    return f"round({expr}, 0.001)"


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Prometheus' own test program; of all tools only this one."""
    tools = toolchain.ensure(["promtool"])
    if "promtool" not in tools:
        pytest.skip("promtool is neither on PATH nor to be had on this machine")
    return tools.path("promtool")


def evaluated(promtool: Path, folder: Path, expected: dict[str, Result]) -> str:
    """What promtool says of these results on the series; "" when they are right."""
    document = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [series.written() for series in SERIES],
                "promql_expr_test": [
                    {
                        "expr": expr,
                        "eval_time": f"{MINUTES}m",
                        "exp_samples": [
                            {
                                "labels": "{" + ", ".join(f"{k}={v!r}" for k, v in labels) + "}",
                                "value": value,
                            }
                            for labels, value in result.items()
                        ],
                    }
                    for expr, result in expected.items()
                ],
            }
        ],
    }
    file = folder / "dashboards.json"
    file.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    done = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False, timeout=60
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_query_of_every_dashboard_is_evaluated() -> None:
    queries = {(d.uid, p.title): len(p.queries) for d in ALL for p in d.panels}

    assert {key: len(results) for key, results in EXPECTED.items()} == queries


@pytest.mark.parametrize("dashboard", ALL, ids=lambda dashboard: dashboard.uid)
def test_queries_give_what_the_series_say(
    promtool: Path, tmp_path: Path, dashboard: Dashboard
) -> None:
    expected = {
        asked(query): result
        for panel in dashboard.panels
        for query, result in zip(panel.queries, EXPECTED[dashboard.uid, panel.title], strict=True)
    }

    assert not evaluated(promtool, tmp_path, expected)


def test_a_wrong_result_is_noticed(promtool: Path, tmp_path: Path) -> None:
    query = ALL[0].panels[0].queries[0]

    assert "1.6" in evaluated(promtool, tmp_path, {asked(query): total(1.7)})
