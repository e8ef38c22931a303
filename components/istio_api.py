"""The slice of Istio's API that this program writes, as typed resources.

The keys are Istio's own and are sent as they are; the tests validate every spec against the CRDs of
the chart in use. Another kind is added as another pair of a `TypedDict` and a subclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Generic, NotRequired, TypedDict, TypeVar

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
    sni: NotRequired[str]
    """The name that is asked for in the handshake."""
    subjectAltNames: NotRequired[list[str]]
    """Names of which the server's certificate must have one; given a `sni`, nothing implies it."""


class TcpPool(TypedDict):
    """Limits on connections of any protocol."""

    maxConnections: int


class HttpPool(TypedDict):
    """Limits on requests."""

    http1MaxPendingRequests: int


class ConnectionPool(TypedDict, total=False):
    """Limits of each client to each endpoint group."""

    tcp: TcpPool
    http: HttpPool


class OutlierDetection(TypedDict):
    """When an endpoint gets no requests for a while."""

    consecutive5xxErrors: int
    interval: str
    """How often ejected endpoints are looked at again."""
    baseEjectionTime: NotRequired[str]
    maxEjectionPercent: int
    """Share of the endpoints that may be ejected at once; 10 percent if unset."""


class PortSelector(TypedDict):
    """A port of a service."""

    number: int


class PortTrafficPolicy(TypedDict):
    """A traffic policy for one port; nothing of the policy around it is inherited."""

    port: PortSelector
    tls: ClientTls


class TrafficPolicy(TypedDict, total=False):
    """How clients speak to a host, all its subsets included."""

    connectionPool: ConnectionPool
    outlierDetection: OutlierDetection
    tls: ClientTls
    portLevelSettings: list[PortTrafficPolicy]


class Subset(TypedDict):
    """Some of a host's pods, by label, and what is different for them."""

    name: str
    labels: NotRequired[dict[str, str]]
    trafficPolicy: NotRequired[TrafficPolicy]


class DestinationRuleSpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/networking/destination-rule/."""

    host: str
    trafficPolicy: NotRequired[TrafficPolicy]
    subsets: NotRequired[list[Subset]]


class Port(TypedDict):
    """A port on which a gateway listens: the number inside the gateway's pod."""

    number: int
    name: str
    protocol: str


class ServerTls(TypedDict):
    """What a gateway makes of TLS: ISTIO_MUTUAL, SIMPLE, MUTUAL or PASSTHROUGH."""

    mode: str


class Server(TypedDict):
    """A port of a gateway and the hosts served there."""

    port: Port
    hosts: list[str]
    tls: NotRequired[ServerTls]


class GatewaySpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/networking/gateway/."""

    selector: dict[str, str]
    servers: list[Server]


class StringMatch(TypedDict, total=False):
    """Exactly one of the keys."""

    exact: str
    prefix: str
    regex: str
    """RE2, of the whole value."""


class HttpMatch(TypedDict, total=False):
    """Requests that fit all of these."""

    uri: StringMatch
    headers: dict[str, StringMatch]
    """Keyed by the header's name in lower case."""
    port: int
    gateways: list[str]


class Destination(TypedDict):
    """Where matching requests go."""

    host: str
    subset: NotRequired[str]
    port: NotRequired[PortSelector]
    """Without it the port that was asked for, or the only one of the service."""


class Route(TypedDict):
    """One destination of a route."""

    destination: Destination
    weight: NotRequired[int]


class Percent(TypedDict):
    """0 to 100, with fractions."""

    value: float


class HttpDelay(TypedDict):
    """Requests that are held up."""

    percentage: Percent
    fixedDelay: str


class HttpAbort(TypedDict):
    """Requests that are answered by the client's proxy."""

    percentage: Percent
    httpStatus: int


class HttpFault(TypedDict, total=False):
    """Failures made on purpose."""

    delay: HttpDelay
    abort: HttpAbort


class HttpRetries(TypedDict):
    """How failed requests are sent again."""

    attempts: int
    perTryTimeout: NotRequired[str]
    retryOn: NotRequired[str]


class HeaderChanges(TypedDict, total=False):
    """Changes to some headers."""

    remove: list[str]


class Headers(TypedDict, total=False):
    """Changes to the headers of requests."""

    request: HeaderChanges


class HttpRoute(TypedDict):
    """Requests that fit any of `match`, or all without it, go to `route`."""

    match: NotRequired[list[HttpMatch]]
    route: list[Route]
    fault: NotRequired[HttpFault]
    retries: NotRequired[HttpRetries]
    timeout: NotRequired[str]
    mirror: NotRequired[Destination]
    mirrorPercentage: NotRequired[Percent]
    headers: NotRequired[Headers]


class TlsMatch(TypedDict):
    """TLS connections that fit all of these."""

    sniHosts: list[str]
    port: NotRequired[int]
    gateways: NotRequired[list[str]]


class TlsRoute(TypedDict):
    """TLS connections that fit any of `match` go to `route`, undecrypted."""

    match: list[TlsMatch]
    route: list[Route]


class VirtualServiceSpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/networking/virtual-service/."""

    hosts: list[str]
    gateways: NotRequired[list[str]]
    """Without it `mesh`: every sidecar."""
    http: NotRequired[list[HttpRoute]]
    tls: NotRequired[list[TlsRoute]]


class ServicePort(TypedDict):
    """A port of a host outside the mesh."""

    number: int
    name: str
    protocol: str


class Endpoint(TypedDict):
    """Where a host outside the mesh really is: an address or a DNS name."""

    address: str


class ServiceEntrySpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/networking/service-entry/."""

    hosts: list[str]
    location: str
    ports: list[ServicePort]
    resolution: str
    endpoints: NotRequired[list[Endpoint]]


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


_Spec = TypeVar("_Spec", bound=Mapping[str, object])


class _IstioResource(CustomResource, Generic[_Spec]):
    """One Istio object: a subclass is called as its kind, and says its version and its spec."""

    _API_VERSION: ClassVar[str]

    def __init__(
        self,
        resource_name: str,
        *,
        name: str,
        namespace: str,
        spec: _Spec,
        annotations: Mapping[str, str] | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            resource_name,
            api_version=self._API_VERSION,
            kind=type(self).__name__,
            metadata=metadata(name, namespace=namespace, annotations=annotations),
            spec=spec,
            opts=opts,
        )


class PeerAuthentication(_IstioResource[PeerAuthenticationSpec]):
    """What the proxies of a mesh, a namespace or some workloads accept."""

    _API_VERSION = "security.istio.io/v1"


class DestinationRule(_IstioResource[DestinationRuleSpec]):
    """What clients' proxies send to a host, and the host's subsets."""

    _API_VERSION = "networking.istio.io/v1"


class Gateway(_IstioResource[GatewaySpec]):
    """On which ports the selected gateway pods listen, and for which hosts."""

    _API_VERSION = "networking.istio.io/v1"


class VirtualService(_IstioResource[VirtualServiceSpec]):
    """Where requests for some hosts go."""

    _API_VERSION = "networking.istio.io/v1"


class ServiceEntry(_IstioResource[ServiceEntrySpec]):
    """A host outside the mesh that its proxies know."""

    _API_VERSION = "networking.istio.io/v1"


class Telemetry(_IstioResource[TelemetrySpec]):
    """What the proxies of a mesh, a namespace or some workloads tell of their traffic."""

    _API_VERSION = "telemetry.istio.io/v1"


class Source(TypedDict):
    """Who asks."""

    principals: list[str]
    """Identities from the client's certificate, without `spiffe://`."""


class From(TypedDict):
    """One kind of client."""

    source: Source


class AllowedOperation(TypedDict):
    """What is asked for; all keys must fit, and of each key one value."""

    methods: NotRequired[list[str]]
    paths: NotRequired[list[str]]
    ports: NotRequired[list[str]]
    """Ports of the workload, not of its Service."""


class To(TypedDict):
    """One kind of request."""

    operation: AllowedOperation


# functional, because `from` is a word of Python's
AuthorizationRule = TypedDict("AuthorizationRule", {"from": list[From], "to": list[To]})
"""Any of the clients may send any of the requests."""


class AuthorizationPolicySpec(TypedDict):
    """https://istio.io/latest/docs/reference/config/security/authorization-policy/."""

    selector: NotRequired[WorkloadSelector]
    action: NotRequired[str]
    """ALLOW where it is left out."""

    rules: NotRequired[list[AuthorizationRule]]
    """Without any, ALLOW allows nothing."""


class AuthorizationPolicy(_IstioResource[AuthorizationPolicySpec]):
    """Who may ask the workloads of a mesh, a namespace or a selector for what."""

    _API_VERSION = "security.istio.io/v1"
