"""The slice of Istio's API that this program writes, as typed resources.

The keys are Istio's own and are sent as they are; the tests validate every spec against the CRDs of
the chart in use. Another kind is added as another pair of a `TypedDict` and a subclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from pulumi import ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource

from components.kinds import metadata


class WorkloadSelector(TypedDict):
    """Pods by their labels (`istio.type.v1beta1.WorkloadSelector`)."""

    matchLabels: dict[str, str]


class PeerMutualTls(TypedDict):
    """What is accepted: STRICT, PERMISSIVE or DISABLE."""

    mode: str


class PeerAuthenticationSpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/security/peer_authentication/."""

    selector: NotRequired[WorkloadSelector]
    mtls: NotRequired[PeerMutualTls]
    portLevelMtls: NotRequired[dict[str, PeerMutualTls]]
    """Keyed by container port, as a string of digits; allowed only with a selector."""


class ClientTls(TypedDict):
    """What a client's proxy sends: ISTIO_MUTUAL, SIMPLE, MUTUAL or DISABLE."""

    mode: str


class TrafficPolicy(TypedDict):
    """The slice of a traffic policy that is written here."""

    tls: ClientTls


class Subset(TypedDict):
    """Some of a host's pods, by label."""

    name: str
    labels: dict[str, str]


class DestinationRuleSpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/networking/destination-rule/."""

    host: str
    trafficPolicy: TrafficPolicy
    subsets: NotRequired[list[Subset]]


class Port(TypedDict):
    """A port on which a gateway listens: the number inside the gateway's pod."""

    number: int
    name: str
    protocol: str


class Server(TypedDict):
    """A port of a gateway and the hosts served there."""

    port: Port
    hosts: list[str]


class GatewaySpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/networking/gateway/."""

    selector: dict[str, str]
    servers: list[Server]


class StringMatch(TypedDict, total=False):
    """Exactly one of the keys."""

    exact: str
    prefix: str


class HttpMatch(TypedDict):
    """Requests by path."""

    uri: StringMatch


class PortSelector(TypedDict):
    """A port of a service."""

    number: int


class Destination(TypedDict):
    """Where matching requests go."""

    host: str
    port: PortSelector


class Route(TypedDict):
    """One destination of a route."""

    destination: Destination


class HttpRoute(TypedDict):
    """Requests that match any of `match` go to `route`."""

    match: list[HttpMatch]
    route: list[Route]


class VirtualServiceSpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/networking/virtual-service/."""

    hosts: list[str]
    gateways: list[str]
    http: list[HttpRoute]


class ProviderRef(TypedDict):
    """A provider of meshConfig.extensionProviders, by name."""

    name: str


class Tracing(TypedDict):
    """Where traces go."""

    providers: list[ProviderRef]


class AccessLogging(TypedDict):
    """Whether, and by which provider, requests are logged."""

    providers: list[ProviderRef]
    disabled: bool


class TelemetrySpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/telemetry/."""

    tracing: NotRequired[list[Tracing]]
    accessLogging: NotRequired[list[AccessLogging]]


class _IstioResource(CustomResource):
    """One Istio object; a subclass says its API version, kind and the type of its spec."""

    def __init__(
        self,
        resource_name: str,
        *,
        api_version: str,
        kind: str,
        name: str,
        namespace: str,
        spec: Mapping[str, object],
        annotations: Mapping[str, str] | None,
        opts: ResourceOptions | None,
    ) -> None:
        super().__init__(
            resource_name,
            api_version=api_version,
            kind=kind,
            metadata=metadata(name, namespace=namespace, annotations=annotations),
            spec=spec,
            opts=opts,
        )


class PeerAuthentication(_IstioResource):
    """What the proxies of a mesh, a namespace or some workloads accept."""

    def __init__(
        self,
        resource_name: str,
        *,
        name: str,
        namespace: str,
        spec: PeerAuthenticationSpec,
        annotations: Mapping[str, str] | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            resource_name,
            api_version="security.istio.io/v1",
            kind="PeerAuthentication",
            name=name,
            namespace=namespace,
            spec=spec,
            annotations=annotations,
            opts=opts,
        )


class DestinationRule(_IstioResource):
    """What clients' proxies send to a host, and the host's subsets."""

    def __init__(
        self,
        resource_name: str,
        *,
        name: str,
        namespace: str,
        spec: DestinationRuleSpec,
        annotations: Mapping[str, str] | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            resource_name,
            api_version="networking.istio.io/v1",
            kind="DestinationRule",
            name=name,
            namespace=namespace,
            spec=spec,
            annotations=annotations,
            opts=opts,
        )


class Gateway(_IstioResource):
    """On which ports the selected gateway pods listen, and for which hosts."""

    def __init__(
        self,
        resource_name: str,
        *,
        name: str,
        namespace: str,
        spec: GatewaySpec,
        annotations: Mapping[str, str] | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            resource_name,
            api_version="networking.istio.io/v1",
            kind="Gateway",
            name=name,
            namespace=namespace,
            spec=spec,
            annotations=annotations,
            opts=opts,
        )


class VirtualService(_IstioResource):
    """Where requests for some hosts go."""

    def __init__(
        self,
        resource_name: str,
        *,
        name: str,
        namespace: str,
        spec: VirtualServiceSpec,
        annotations: Mapping[str, str] | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            resource_name,
            api_version="networking.istio.io/v1",
            kind="VirtualService",
            name=name,
            namespace=namespace,
            spec=spec,
            annotations=annotations,
            opts=opts,
        )


class Telemetry(_IstioResource):
    """What the proxies of a mesh, a namespace or some workloads tell of their traffic."""

    def __init__(
        self,
        resource_name: str,
        *,
        name: str,
        namespace: str,
        spec: TelemetrySpec,
        annotations: Mapping[str, str] | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            resource_name,
            api_version="telemetry.istio.io/v1",
            kind="Telemetry",
            name=name,
            namespace=namespace,
            spec=spec,
            annotations=annotations,
            opts=opts,
        )
