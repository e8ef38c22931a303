"""Istio's gateways: one class for the ingress and the egress gateway, each a release of a chart.

Names, labels, ports and sizes are those of `istioctl install`, which renders older charts
(`manifests/charts/gateways/istio-ingress` and `istio-egress`) than the published chart `gateway`
that is installed here. That chart takes a profile but does nothing with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NotRequired, TypedDict

from pulumi import ComponentResource, ResourceOptions

from components.helm_record import repeatable
from components.kinds import ROOT_NAMESPACE, ClusterAccess, Distribution, Profile, helm_release


class ServiceType(StrEnum):
    """How a gateway's Service is reached from outside the cluster."""

    CLUSTER_IP = "ClusterIP"
    """Not at all, but through `kubectl port-forward`."""

    NODE_PORT = "NodePort"
    """On a port of every node."""

    LOAD_BALANCER = "LoadBalancer"
    """At an address that the cluster's load balancer hands out, if it has one."""


class Direction(StrEnum):
    """Which way a gateway's traffic goes; the value is its pods' label `istio`."""

    INGRESS = "ingressgateway"
    EGRESS = "egressgateway"


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayPort:
    """A port of a gateway's Service."""

    name: str
    """Istio reads the protocol from the part before the first "-"."""

    port: int
    """Where clients connect."""

    target: int
    """Where the pod listens; an Istio `Gateway` object names this one."""


_STATUS = GatewayPort(name="status-port", port=15021, target=15021)
_HTTP = GatewayPort(name="http2", port=80, target=8080)
_HTTPS = GatewayPort(name="https", port=443, target=8443)
_TCP = GatewayPort(name="tcp", port=31400, target=31400)
_TLS = GatewayPort(name="tls", port=15443, target=15443)


def ports(direction: Direction, profile: Profile) -> tuple[GatewayPort, ...]:
    """The ports that `istioctl install` gives to a gateway (`profile-demo.yaml`, `values.yaml`).

    The status port is first, because some load balancers probe the first port.
    """
    if direction is Direction.EGRESS:
        return (_HTTP, _HTTPS)
    if profile is Profile.DEMO:
        return (_STATUS, _HTTP, _HTTPS, _TCP, _TLS)
    return (_STATUS, _HTTP, _HTTPS)


class _Quantities(TypedDict):
    cpu: str
    memory: str


class _Resources(TypedDict):
    requests: _Quantities
    limits: _Quantities


class _Autoscaling(TypedDict):
    enabled: bool
    minReplicas: NotRequired[int]
    maxReplicas: NotRequired[int]


class _ServicePort(TypedDict):
    name: str
    port: int
    protocol: str
    targetPort: int


class _Service(TypedDict):
    type: str
    ports: list[_ServicePort]


class GatewayValues(TypedDict):
    """Values of chart `gateway` (`manifests/charts/gateway/values.schema.json`)."""

    labels: dict[str, str]
    service: _Service
    resources: _Resources
    autoscaling: _Autoscaling
    revision: NotRequired[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayArgs:
    """What an operator may choose about one gateway."""

    direction: Direction
    """Ingress or egress."""

    istio: Distribution
    """Which Istio, from which charts; its profile says which ports and which size."""

    access: ClusterAccess
    """How Helm's record of an interrupted installation is reached."""

    service_type: ServiceType = ServiceType.CLUSTER_IP
    """How an ingress gateway is reached; an egress gateway is reached from inside only."""

    revision: str | None = None
    """The istiod that injects its pods, by its revision or a tag; None: the default one."""

    def __post_init__(self) -> None:
        """Refuse what istioctl does not have either.

        Raises:
            ValueError: An egress gateway that is reachable from outside.
        """
        if self.direction is Direction.EGRESS and self.service_type is not ServiceType.CLUSTER_IP:
            raise ValueError(f"service_type is {self.service_type}; an egress gateway is ClusterIP")


def gateway_values(args: GatewayArgs) -> GatewayValues:
    """Values of chart `gateway` for these arguments."""
    demo = args.istio.profile is Profile.DEMO
    values: GatewayValues = {
        # the chart would derive it from the release's name; said here, it is what selectors get
        "labels": {"istio": args.direction.value},
        "service": {
            "type": args.service_type.value,
            "ports": [
                {"name": p.name, "port": p.port, "protocol": "TCP", "targetPort": p.target}
                for p in ports(args.direction, args.istio.profile)
            ],
        },
        "resources": {
            "requests": {"cpu": "10m", "memory": "40Mi"}
            if demo
            else {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "2000m", "memory": "1024Mi"},
        },
        "autoscaling": {"enabled": False}
        if demo
        else {"enabled": True, "minReplicas": 1, "maxReplicas": 5},
    }
    if args.revision:
        values["revision"] = args.revision
    return values


class Gateway(ComponentResource):
    """`service-mesh:gateway:Gateway`: one release of chart `gateway` in istio-system.

    Its istiod, and a tag by which it asks for that, must be ready before: their webhook puts the
    image into the gateway's pods.
    """

    service: str
    """Name of the Service, the Deployment and the ServiceAccount."""

    selector: dict[str, str]
    """Labels by which an Istio `Gateway` object finds this gateway's pods."""

    http_port: int
    """The port for plain HTTP inside the pods: what an Istio `Gateway` object must name."""

    def __init__(self, name: str, args: GatewayArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("service-mesh:gateway:Gateway", name, {}, opts)
        values = gateway_values(args)
        self.service = f"istio-{args.direction.value}"
        self.selector = values["labels"]
        self.http_port = _HTTP.target
        self._service_type = args.service_type
        helm_release(
            f"{name}-release",
            name=self.service,
            chart="gateway",
            istio=args.istio,
            values=values,
            before=repeatable(f"{name}-repeatable", args.access),
            # Helm would wait for an address, and fail, where no load balancer hands one out
            skip_await=args.service_type is ServiceType.LOAD_BALANCER,
            parent=self,
        )
        self.register_outputs(
            {"service": self.service, "selector": self.selector, "httpPort": self.http_port}
        )

    def how_to_open(self, kubectl: str, path: str) -> str:
        """What a person types to open a page behind this gateway, as a shell line with a comment.

        Args:
            kubectl: How a command that talks to the cluster begins.
            path: The page, beginning with "/".
        """
        show = f"{kubectl} -n {ROOT_NAMESPACE} get service {self.service} -o jsonpath="
        match self._service_type:
            case ServiceType.CLUSTER_IP:
                return (
                    f"{kubectl} -n {ROOT_NAMESPACE} port-forward service/{self.service} "
                    f"8080:{_HTTP.port}  # then open http://127.0.0.1:8080{path}"
                )
            case ServiceType.NODE_PORT:
                port = f"'{{.spec.ports[?(@.name==\"{_HTTP.name}\")].nodePort}}'"
                return f"{show}{port}  # then open http://NODE:PORT{path} with any node's address"
            case ServiceType.LOAD_BALANCER:
                address = "'{.status.loadBalancer.ingress[0]}'"
                return f"{show}{address}  # then open http://ADDRESS{path}"
