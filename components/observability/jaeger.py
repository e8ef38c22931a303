"""Jaeger, which takes the proxies' traces over OTLP, keeps the latest in memory and shows them.

Its pods have no sidecar, so spans travel in plain text: the proxies' automatic mutual TLS is for
pods that have one, and STRICT is about what those accept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from pulumi import ComponentResource, ResourceOptions

from components.kinds import ROOT_NAMESPACE
from components.observability.images import JAEGER
from components.observability.workload import (
    ConfigFile,
    Port,
    Probe,
    Workload,
    as_yaml,
    deploy,
    url,
)

COLLECTOR = "jaeger-collector"
"""The Service that takes spans."""

OTLP_GRPC_PORT = 4317
"""Of COLLECTOR: https://opentelemetry.io/docs/specs/otlp/."""

OTLP_HTTP_PORT = 4318
"""Of COLLECTOR."""

QUERY = "tracing"
"""The Service that answers questions about traces, and has the page for people."""

QUERY_HTTP_PORT = 80
"""Of QUERY: the page and its JSON API."""

QUERY_GRPC_PORT = 16685
"""Of QUERY: https://www.jaegertracing.io/docs/2.17/architecture/apis/."""

TRACING_PROVIDER = "jaeger"
"""What the demo profile calls it in meshConfig.extensionProviders, and so do we elsewhere."""

_NAME = "jaeger"
_CONFIG = "/etc/jaeger/config.yaml"
_PAGE_PORT = 16686
_HEALTH_PORT = 13133
_METRICS_PORT = 8888
_ANYWHERE = "0.0.0.0"  # noqa: S104 of the pod's own network
_STORE = "memory"


class Endpoint(TypedDict):
    """Where something listens, "host:port"."""

    endpoint: str


class OtlpProtocols(TypedDict):
    """https://github.com/open-telemetry/opentelemetry-collector/tree/main/receiver/otlpreceiver."""

    grpc: Endpoint
    http: Endpoint


class OtlpReceiver(TypedDict):
    """Takes spans."""

    protocols: OtlpProtocols


class Receivers(TypedDict):
    """Only OTLP: it is what Istio's proxies send."""

    otlp: OtlpReceiver


class MemoryBackend(TypedDict):
    """Traces in memory; the oldest goes when there are too many."""

    max_traces: int


class Backend(TypedDict):
    """A place for traces."""

    memory: MemoryBackend


class JaegerStorage(TypedDict):
    """Places for traces, by name."""

    backends: dict[str, Backend]


class QueryStorage(TypedDict):
    """Which place questions are about."""

    traces: str


class JaegerQuery(TypedDict):
    """The page and both APIs."""

    storage: QueryStorage
    http: Endpoint
    grpc: Endpoint


class HealthCheck(TypedDict):
    """Whether all parts run."""

    use_v2: bool
    http: Endpoint


class Extensions(TypedDict):
    """What runs beside the pipeline."""

    jaeger_storage: JaegerStorage
    jaeger_query: JaegerQuery
    healthcheckv2: HealthCheck


class StorageExporter(TypedDict):
    """Writes into a place for traces."""

    trace_storage: str


class Exporters(TypedDict):
    """Where the pipeline ends."""

    jaeger_storage_exporter: StorageExporter


class Pipeline(TypedDict):
    """From receivers through processors to exporters."""

    receivers: list[str]
    processors: list[str]
    exporters: list[str]


class PrometheusExporter(TypedDict):
    """Where its own metrics are."""

    host: str
    port: int


class PullExporter(TypedDict):
    """Metrics that are fetched."""

    prometheus: PrometheusExporter


class PullReader(TypedDict):
    """The one exporter of a reader."""

    exporter: PullExporter


class MetricsReader(TypedDict):
    """A way out for its own metrics."""

    pull: PullReader


class Metrics(TypedDict):
    """Its own metrics."""

    level: str
    readers: list[MetricsReader]


class Telemetry(TypedDict):
    """What it tells of itself."""

    metrics: Metrics


class Service(TypedDict):
    """What of the rest is in use."""

    extensions: list[str]
    pipelines: dict[str, Pipeline]
    telemetry: Telemetry


class JaegerConfig(TypedDict):
    """The configuration file: https://www.jaegertracing.io/docs/2.17/deployment/configuration/."""

    service: Service
    extensions: Extensions
    receivers: Receivers
    processors: dict[str, dict[str, object]]
    exporters: Exporters


@dataclass(frozen=True, kw_only=True, slots=True)
class JaegerArgs:
    """How much is kept."""

    namespace: str = ROOT_NAMESPACE
    """Where it runs."""

    max_traces: int = 10_000
    """Traces that are kept, 1 or more; then the oldest go."""

    memory_limit_mib: int = 1024
    """Memory above which it is killed, in MiB."""

    def __post_init__(self) -> None:
        """Refuse what Jaeger would take for "no limit".

        Raises:
            ValueError: max_traces is not positive.
        """
        if self.max_traces < 1:
            raise ValueError(f"max_traces is {self.max_traces}; expected 1 or more")


def collector_host(namespace: str) -> str:
    """The host to which proxies send spans, known before Jaeger is there."""
    return f"{COLLECTOR}.{namespace}.svc.cluster.local"


class Jaeger(ComponentResource):
    """`service-mesh:observability:Jaeger`: collector, storage and page in one process."""

    url: str
    """Address of the page and the JSON API inside the cluster."""

    def __init__(self, name: str, args: JaegerArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("service-mesh:observability:Jaeger", name, {}, opts)
        self.url = url(QUERY, args.namespace, QUERY_HTTP_PORT)
        deploy(name, _workload(args), self)
        self.register_outputs({"url": self.url})


def jaeger_config(*, max_traces: int) -> JaegerConfig:
    """OTLP in, memory, page and APIs out.

    Args:
        max_traces: How many are kept.
    """
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    "processors": ["batch"],
                    "exporters": ["jaeger_storage_exporter"],
                }
            },
            "telemetry": {
                "metrics": {
                    "level": "normal",
                    "readers": [
                        {
                            "pull": {
                                "exporter": {
                                    "prometheus": {"host": _ANYWHERE, "port": _METRICS_PORT}
                                }
                            }
                        }
                    ],
                }
            },
        },
        "extensions": {
            "jaeger_storage": {"backends": {_STORE: {"memory": {"max_traces": max_traces}}}},
            "jaeger_query": {
                "storage": {"traces": _STORE},
                "http": _at(_PAGE_PORT),
                "grpc": _at(QUERY_GRPC_PORT),
            },
            "healthcheckv2": {"use_v2": True, "http": _at(_HEALTH_PORT)},
        },
        "receivers": {
            "otlp": {"protocols": {"grpc": _at(OTLP_GRPC_PORT), "http": _at(OTLP_HTTP_PORT)}}
        },
        "processors": {"batch": {}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": _STORE}},
    }


def _at(port: int) -> Endpoint:
    return {"endpoint": f"{_ANYWHERE}:{port}"}


def _workload(args: JaegerArgs) -> Workload:
    health = Probe(path="/status", port=_HEALTH_PORT)
    return Workload(
        name=_NAME,
        namespace=args.namespace,
        image=JAEGER,
        args=("--config", _CONFIG),
        services={
            COLLECTOR: (
                # Istio reads the protocol from the name: OTLP over gRPC needs HTTP/2
                Port(name="grpc-otlp", number=OTLP_GRPC_PORT),
                Port(name="http-otlp", number=OTLP_HTTP_PORT),
            ),
            QUERY: (
                Port(name="http-query", number=QUERY_HTTP_PORT, target=_PAGE_PORT),
                Port(name="grpc-query", number=QUERY_GRPC_PORT),
            ),
        },
        ready=health,
        alive=health,
        config=(ConfigFile(path=_CONFIG, text=as_yaml(jaeger_config(max_traces=args.max_traces))),),
        pod_annotations=(
            ("prometheus.io/scrape", "true"),
            ("prometheus.io/port", str(_METRICS_PORT)),
        ),
        memory_request_mib=128,
        memory_limit_mib=args.memory_limit_mib,
    )
