"""Grafana's dashboards, built from a table: what the mesh does, and how much of it is mutual TLS.

Every query is made of Istio's standard metrics alone
(https://istio.io/latest/docs/reference/config/metrics/). What is counted over the dashboard's time
range also counts a series that began in it from zero: a single plaintext request is a series of one
value, in which `increase` alone would see nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NAMESPACES = "label_values(istio_requests_total, destination_workload_namespace)"
"""The query of the variable `namespace`, in the words of Grafana's Prometheus data source."""

_COLUMNS = 24
"""Width of every dashboard, in Grafana's grid."""

_NAMESPACE_MATCHER = 'destination_workload_namespace=~"$namespace"'
_SERVER = f'reporter="destination", {_NAMESPACE_MATCHER}'
_CLIENT = f'reporter="source", {_NAMESPACE_MATCHER}'
_PLAIN = f'{_SERVER}, connection_security_policy!="mutual_tls"'
_FAILED = 'response_code=~"5.."'

_REQUESTS = "istio_requests_total"
_CONNECTIONS = "istio_tcp_connections_opened_total"

_WORKLOAD = ("destination_workload_namespace", "destination_workload")
_EDGE = ("source_workload_namespace", "source_workload", *_WORKLOAD)
_BY_WORKLOAD = "{{destination_workload}}.{{destination_workload_namespace}}"


class Kind(StrEnum):
    """How a panel shows its queries."""

    STAT = "stat"
    """One figure, over the dashboard's time range."""

    TIME_SERIES = "timeseries"
    """Lines over time."""

    TABLE = "table"
    """Rows of labels with one column of figures for each query."""


class Unit(StrEnum):
    """Grafana's names of units (https://grafana.com/docs/grafana/latest/panels-visualizations/)."""

    REQUESTS = "reqps"
    """Requests each second."""

    SHARE = "percentunit"
    """A share from 0 to 1, shown as 0 to 100 %."""

    MILLISECONDS = "ms"
    """Thousandths of a second."""

    BYTES = "Bps"
    """Bytes each second."""

    COUNT = "short"
    """A number of things."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One PromQL expression, with Grafana's variables in it."""

    expr: str
    """The expression; `$namespace`, `$__range` and `$__rate_interval` are Grafana's to fill in."""

    title: str = ""
    """What its line is called (`{{label}}` is a label's value), or its column of a table."""

    unit: Unit | None = None
    """Unit of its column; None = the panel's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One picture."""

    title: str
    """What it shows; no two panels of a dashboard have the same."""

    kind: Kind
    """How."""

    queries: tuple[Query, ...]
    """Of what, at least one."""

    unit: Unit
    """Unit of its values."""

    description: str = ""
    """How to read it, for who asks."""

    labels: tuple[str, ...] = ()
    """A table's first columns: the labels its rows differ in."""

    width: int = _COLUMNS
    """1 to 24 columns of Grafana's grid."""

    height: int = 8
    """Rows of Grafana's grid, of 30 pixels each."""

    whole_is_good: bool = False
    """Whether a share below 1 is marked red, and 1 green."""

    empty: str = "none"
    """What it says when there is nothing to show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Panels under one heading."""

    title: str
    """The heading."""

    panels: tuple[Panel, ...]
    """From left to right, then down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dashboard:
    """One page of Grafana."""

    uid: str
    """Grafana's identifier: /d/<uid> is its address."""

    title: str
    """Its name."""

    description: str
    """What it is for."""

    sections: tuple[Section, ...]
    """What is on it."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All its panels."""
        return tuple(panel for section in self.sections for panel in section.panels)


def _by(labels: tuple[str, ...], expr: str) -> str:
    return f"sum by ({', '.join(labels)}) ({expr})"


def _rate(metric: str, matchers: str) -> str:
    return f"rate({metric}{{{matchers}}}[$__rate_interval])"


def _count(metric: str, matchers: str) -> str:
    """How many in the time range; a series that began in it counts from zero."""
    series = f"{metric}{{{matchers}}}"
    return (
        f"(last_over_time({series}[$__range]) unless {series} offset $__range) "
        f"or increase({series}[$__range])"
    )


def _share(part: str, whole: str) -> str:
    """A part of a whole; 0 where there is a whole without such a part, nothing where none is."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def _rest(part: str, whole: str) -> str:
    """The share of all but a part: exactly 1 without it, whatever floats do in a sum."""
    return f"1 - {_share(part, whole)}"


def _latency(quantile: float) -> Panel:
    buckets = _rate("istio_request_duration_milliseconds_bucket", _SERVER)
    return Panel(
        title=f"Latency, p{quantile * 100:g}",
        kind=Kind.TIME_SERIES,
        unit=Unit.MILLISECONDS,
        width=8,
        description="From the request's first byte at the server's proxy to the answer's last.",
        queries=(
            Query(
                expr=f"histogram_quantile({quantile}, {_by(('le', *_WORKLOAD), buckets)})",
                title=_BY_WORKLOAD,
            ),
        ),
    )


def _bytes(title: str, metric: str) -> Panel:
    return Panel(
        title=title,
        kind=Kind.TIME_SERIES,
        unit=Unit.BYTES,
        width=12,
        description="Of connections that are not HTTP, as the server's proxy counts them.",
        queries=(Query(expr=_by(_WORKLOAD, _rate(metric, _SERVER)), title=_BY_WORKLOAD),),
    )


def _coverage(title: str, metric: str, what: str) -> tuple[Panel, Panel]:
    """The share of mutual TLS as one figure, and over time."""
    whole, plain = _count(metric, _SERVER), _count(metric, _PLAIN)
    rate, plain_rate = _rate(metric, _SERVER), _rate(metric, _PLAIN)
    return (
        Panel(
            title=title,
            kind=Kind.STAT,
            unit=Unit.SHARE,
            width=6,
            whole_is_good=True,
            empty=f"no {what}",
            description=f"Share of the time range's {what} that came in by mutual TLS, as the "
            "server's proxy saw them.",
            queries=(Query(expr=_rest(f"sum({plain})", f"sum({whole})")),),
        ),
        Panel(
            title=f"{title}, by server",
            kind=Kind.TIME_SERIES,
            unit=Unit.SHARE,
            width=18,
            empty=f"no {what}",
            queries=(
                Query(
                    expr=_rest(_by(_WORKLOAD, plain_rate), _by(_WORKLOAD, rate)),
                    title=_BY_WORKLOAD,
                ),
            ),
        ),
    )


def _edges(title: str, metric: str, what: str) -> Panel:
    whole, plain = _by(_EDGE, _count(metric, _SERVER)), _by(_EDGE, _count(metric, _PLAIN))
    return Panel(
        title=title,
        kind=Kind.TABLE,
        unit=Unit.COUNT,
        width=12,
        labels=_EDGE,
        whole_is_good=True,
        empty=f"no {what}",
        description="A client that is `unknown` has no sidecar, or none that says who it is.",
        queries=(
            Query(expr=f"{whole} > 0", title=what.capitalize()),
            Query(expr=_rest(plain, whole), title="Mutual TLS", unit=Unit.SHARE),
        ),
    )


MESH = Dashboard(
    uid="mesh",
    title="Mesh",
    description="Requests, errors, latency and TCP traffic of every workload with a sidecar.",
    sections=(
        Section(
            title="All workloads",
            panels=(
                Panel(
                    title="Requests",
                    kind=Kind.STAT,
                    unit=Unit.REQUESTS,
                    width=8,
                    height=4,
                    empty="no requests",
                    queries=(Query(expr=f"sum({_rate(_REQUESTS, _SERVER)})"),),
                ),
                Panel(
                    title="Answers 5xx",
                    kind=Kind.STAT,
                    unit=Unit.SHARE,
                    width=8,
                    height=4,
                    empty="no requests",
                    queries=(
                        Query(
                            expr=_share(
                                f"sum({_rate(_REQUESTS, f'{_SERVER}, {_FAILED}')})",
                                f"sum({_rate(_REQUESTS, _SERVER)})",
                            )
                        ),
                    ),
                ),
                Panel(
                    title="TCP, both directions",
                    kind=Kind.STAT,
                    unit=Unit.BYTES,
                    width=8,
                    height=4,
                    empty="no connections",
                    queries=(
                        Query(
                            expr=f"sum({_rate('istio_tcp_sent_bytes_total', _SERVER)}) + "
                            f"sum({_rate('istio_tcp_received_bytes_total', _SERVER)})"
                        ),
                    ),
                ),
            ),
        ),
        Section(
            title="HTTP and gRPC, by workload",
            panels=(
                Panel(
                    title="Request rate",
                    kind=Kind.TIME_SERIES,
                    unit=Unit.REQUESTS,
                    width=12,
                    queries=(
                        Query(expr=_by(_WORKLOAD, _rate(_REQUESTS, _SERVER)), title=_BY_WORKLOAD),
                    ),
                ),
                Panel(
                    title="Share of answers 5xx",
                    kind=Kind.TIME_SERIES,
                    unit=Unit.SHARE,
                    width=12,
                    queries=(
                        Query(
                            expr=_share(
                                _by(_WORKLOAD, _rate(_REQUESTS, f"{_SERVER}, {_FAILED}")),
                                _by(_WORKLOAD, _rate(_REQUESTS, _SERVER)),
                            ),
                            title=_BY_WORKLOAD,
                        ),
                    ),
                ),
                *map(_latency, (0.5, 0.9, 0.99)),
                Panel(
                    title="Failures that clients see",
                    kind=Kind.TIME_SERIES,
                    unit=Unit.REQUESTS,
                    description="Answers 5xx and broken requests (code 0) as the client's proxy "
                    "counts them, with Envoy's response flags: UF is a connection that failed, as "
                    "plaintext to a STRICT server does.",
                    queries=(
                        Query(
                            expr=_by(
                                (*_WORKLOAD, "response_code", "response_flags"),
                                _rate(_REQUESTS, f'{_CLIENT}, response_code=~"5..|0"'),
                            ),
                            title=f"{_BY_WORKLOAD} {{{{response_code}}}} {{{{response_flags}}}}",
                        ),
                    ),
                ),
            ),
        ),
        Section(
            title="TCP, by workload",
            panels=(
                _bytes("Received", "istio_tcp_received_bytes_total"),
                _bytes("Sent", "istio_tcp_sent_bytes_total"),
            ),
        ),
    ),
)

MTLS = Dashboard(
    uid="mtls",
    title="mTLS coverage",
    description="How much of what servers received came in by mutual TLS, and what did not.",
    sections=(
        Section(
            title="Coverage",
            panels=(
                *_coverage("Requests by mutual TLS", _REQUESTS, "requests"),
                *_coverage("TCP connections by mutual TLS", _CONNECTIONS, "connections"),
            ),
        ),
        Section(
            title="Plaintext",
            panels=(
                Panel(
                    title="Plaintext edges",
                    kind=Kind.TABLE,
                    unit=Unit.COUNT,
                    labels=_EDGE,
                    empty="none in this time range",
                    description="Who sent plaintext to whom, as the server's proxy saw it. Under "
                    "STRICT nothing appears here: what is refused is no request.",
                    queries=(
                        Query(
                            expr=f"{_by(_EDGE, _count(_REQUESTS, _PLAIN))} > 0", title="Requests"
                        ),
                        Query(
                            expr=f"{_by(_EDGE, _count(_CONNECTIONS, _PLAIN))} > 0",
                            title="Connections",
                        ),
                    ),
                ),
                Panel(
                    title="Edges that no server reports",
                    kind=Kind.TABLE,
                    unit=Unit.COUNT,
                    labels=_EDGE,
                    empty="none in this time range",
                    description="Only the client's proxy knows of these requests: the server has "
                    "no sidecar, or no request reached it. Nothing says that they were encrypted.",
                    queries=(
                        Query(
                            expr=f"({_by(_EDGE, _count(_REQUESTS, _CLIENT))} > 0) unless "
                            f"{_by(_EDGE, _count(_REQUESTS, _SERVER))}",
                            title="Requests",
                        ),
                    ),
                ),
            ),
        ),
        Section(
            title="Edges",
            panels=(
                _edges("Requests by edge", _REQUESTS, "requests"),
                _edges("TCP connections by edge", _CONNECTIONS, "connections"),
            ),
        ),
    ),
)

ALL = (MESH, MTLS)
"""Every dashboard of this program; the first is Grafana's home page."""
