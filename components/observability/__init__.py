"""What shows what the mesh does: Prometheus, Grafana, Jaeger and Kiali, together or one by one.

None of them is in the mesh: their pods have no sidecar, wait for their namespace only, and go on
without istiod. They reach pods of the mesh under STRICT because what they ask is not intercepted
(see `prometheus`), and one another because nothing of theirs is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pulumi import ComponentResource, Input, ResourceOptions

from components.kinds import ROOT_NAMESPACE, child, stack_namespace
from components.observability.grafana import Grafana, GrafanaArgs
from components.observability.jaeger import (
    OTLP_GRPC_PORT,
    TRACING_PROVIDER,
    Jaeger,
    JaegerArgs,
    collector_host,
)
from components.observability.kiali import GrafanaAccess, Kiali, KialiArgs, KialiAuth
from components.observability.prometheus import SCRAPE_INTERVAL_S, Prometheus, PrometheusArgs
from components.observability.telemetry import MeshTelemetry, MeshTelemetryArgs

__all__ = [
    "OTLP_GRPC_PORT",
    "TRACING_PROVIDER",
    "Grafana",
    "GrafanaAccess",
    "GrafanaArgs",
    "Jaeger",
    "JaegerArgs",
    "Kiali",
    "KialiArgs",
    "KialiAuth",
    "MeshTelemetry",
    "MeshTelemetryArgs",
    "Observability",
    "ObservabilityArgs",
    "Part",
    "Prometheus",
    "PrometheusArgs",
    "collector_host",
]

# The program's own label for Pod Security (https://kubernetes.io/docs/concepts/security/
# pod-security-admission/): whatever else comes into the namespace has to be as modest.
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Part(StrEnum):
    """A program that can be left out."""

    PROMETHEUS = "prometheus"
    """Collects metrics."""

    GRAFANA = "grafana"
    """Dashboards of Prometheus' metrics."""

    JAEGER = "jaeger"
    """Collects traces and shows them."""

    KIALI = "kiali"
    """Shows the mesh as a graph, from Prometheus' metrics; links to Grafana and Jaeger."""

    @property
    def needs_prometheus(self) -> bool:
        """Whether it shows nothing without Prometheus."""
        return self in {Part.GRAFANA, Part.KIALI}


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservabilityArgs:
    """Which parts, and what an operator may choose about them."""

    parts: tuple[Part, ...]
    """What is installed; at least one."""

    stack: str
    """Name of the stack, written on a namespace that is created."""

    namespace: str = ROOT_NAMESPACE
    """Where they run. Another one than the root namespace is created, outside of the mesh."""

    prometheus_retention: str = "15d"
    """See `PrometheusArgs.retention`."""

    prometheus_storage: str | None = None
    """See `PrometheusArgs.storage`."""

    kiali_auth: KialiAuth = KialiAuth.TOKEN
    """How people log in to Kiali."""

    grafana_admin_password: Input[str] | None = None
    """Password of Grafana's user `admin`; None = a generated one."""

    protect: bool = False
    """Whether Pulumi refuses to delete a namespace that it created."""

    def __post_init__(self) -> None:
        """Refuse parts that would show nothing.

        Raises:
            ValueError: There is no part, or Grafana or Kiali is there without Prometheus.
        """
        if not self.parts:
            raise ValueError("parts is empty; expected at least one")
        if Part.PROMETHEUS not in self.parts:
            for part in self.parts:
                if part.needs_prometheus:
                    raise ValueError(f"parts has {part} without {Part.PROMETHEUS}, which it asks")


class Observability(ComponentResource):
    """`service-mesh:observability:Observability`: the chosen parts, connected with one another."""

    urls: dict[Part, str]
    """Address of each part inside the cluster."""

    def __init__(
        self, name: str, args: ObservabilityArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:observability:Observability", name, {}, opts)
        self.urls = {}
        options = child(self)
        if args.namespace != ROOT_NAMESPACE:
            namespace = stack_namespace(
                f"{name}-namespace",
                args.namespace,
                stack=args.stack,
                parent=self,
                labels=_RESTRICTED,
                protect=args.protect,
            )
            options = child(self, after=[namespace])

        prometheus_url = ""
        if Part.PROMETHEUS in args.parts:
            prometheus_url = self.urls[Part.PROMETHEUS] = Prometheus(
                f"{name}-prometheus",
                PrometheusArgs(
                    namespace=args.namespace,
                    retention=args.prometheus_retention,
                    storage=args.prometheus_storage,
                ),
                options,
            ).url
        tracing_url = None
        if Part.JAEGER in args.parts:
            tracing_url = self.urls[Part.JAEGER] = Jaeger(
                f"{name}-jaeger", JaegerArgs(namespace=args.namespace), options
            ).url
        grafana = None
        if Part.GRAFANA in args.parts:
            grafana = Grafana(
                f"{name}-grafana",
                GrafanaArgs(
                    namespace=args.namespace,
                    prometheus_url=prometheus_url,
                    scrape_interval_s=SCRAPE_INTERVAL_S,
                    tracing_url=tracing_url,
                    admin_password=args.grafana_admin_password,
                ),
                options,
            )
            self.urls[Part.GRAFANA] = grafana.url
        if Part.KIALI in args.parts:
            self.urls[Part.KIALI] = Kiali(
                f"{name}-kiali",
                KialiArgs(
                    namespace=args.namespace,
                    prometheus_url=prometheus_url,
                    grafana=None
                    if grafana is None
                    else GrafanaAccess(
                        url=grafana.url,
                        password=grafana.admin_password,
                        dashboards=grafana.dashboards,
                    ),
                    tracing_url=tracing_url,
                    auth=args.kiali_auth,
                ),
                options,
            ).url
        self.register_outputs(
            {
                "namespace": args.namespace,
                "urls": {part.value: at for part, at in self.urls.items()},
            }
        )
