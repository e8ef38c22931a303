"""Bookinfo, Istio's example application: four services in six Deployments, and the way in.

Object for object what `samples/bookinfo/platform/kube/bookinfo.yaml` and
`samples/bookinfo/networking/bookinfo-gateway.yaml` of istio/istio declare; what differs on purpose
is listed, with reasons, in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pulumi import ComponentResource, Resource, ResourceOptions

from components import call_graph as graph
from components.application import Application, ApplicationArgs, Workload
from components.istio_api import Gateway, GatewaySpec, VirtualService, VirtualServiceSpec
from components.kinds import child

_PORT = 9080
_ACCOUNT_PREFIX = "bookinfo-"
_IMAGE = "registry.istio.io/release/examples-bookinfo-{app}-{version}:1.20.3"
_TMP = ("tmp", "/tmp")  # noqa: S108 a path inside the container, on a volume of its own


def _reviews(version: str) -> Workload:
    return Workload(
        app="reviews",
        version=version,
        image=_IMAGE.format(app="reviews", version=version),
        port=_PORT,
        # Open Liberty on Java; its heap is a share of the limit
        memory_request_mib=192,
        memory_limit_mib=1024,
        env=(("LOG_DIR", "/tmp/logs"),),  # noqa: S108 same
        scratch=(_TMP, ("wlp-output", "/opt/ibm/wlp/output")),
    )


WORKLOADS: tuple[Workload, ...] = (
    Workload(
        app="details",
        version="v1",
        image=_IMAGE.format(app="details", version="v1"),
        port=_PORT,
    ),
    Workload(
        app="ratings",
        version="v1",
        image=_IMAGE.format(app="ratings", version="v1"),
        port=_PORT,
    ),
    _reviews("v1"),
    _reviews("v2"),
    _reviews("v3"),
    Workload(
        app="productpage",
        version="v1",
        image=_IMAGE.format(app="productpage", version="v1"),
        port=_PORT,
        # eight gunicorn workers
        memory_request_mib=256,
        memory_limit_mib=1024,
        scratch=(_TMP,),
        pod_annotations=(
            ("prometheus.io/scrape", "true"),
            ("prometheus.io/port", str(_PORT)),
            ("prometheus.io/path", "/metrics"),
        ),
    ),
)
"""The table, in upstream's order."""

PAGE = "/productpage"
"""Where a browser goes."""


_READ = ("GET",)

CALLS: tuple[graph.Call, ...] = (
    graph.Call(
        client=graph.INGRESS,
        server="productpage",
        operations=(
            graph.Operation(
                methods=_READ, paths=(PAGE, "/static/*", "/logout", "/api/v1/products*")
            ),
            graph.Operation(methods=("POST",), paths=("/login",)),
        ),
    ),
    graph.Call(
        client="productpage",
        server="details",
        operations=(graph.Operation(methods=_READ, paths=("/details/*",)),),
    ),
    graph.Call(
        client="productpage",
        server="reviews",
        operations=(graph.Operation(methods=_READ, paths=("/reviews/*",)),),
    ),
    graph.Call(
        client="reviews",
        server="ratings",
        operations=(graph.Operation(methods=_READ, paths=("/ratings/*",)),),
    ),
)
"""Who calls whom to show the page, with the requests that the services really send.

productpage also has `/api/v1/products/N/ratings`, for which it would ask ratings itself. The page
does not use it and the edge is left out: where calls are restricted, ratings answers 403 there.
"""


def call_graph(namespace: str, gateway: graph.Gateway | None) -> graph.CallGraph:
    """Bookinfo's call graph.

    Args:
        namespace: Where Bookinfo is.
        gateway: The ingress gateway; without one nobody may call productpage.
    """
    return graph.CallGraph(
        namespace=namespace,
        services=tuple(
            graph.Service(name=app, port=_PORT, account=f"{_ACCOUNT_PREFIX}{app}")
            for app in dict.fromkeys(row.app for row in WORKLOADS)
        ),
        calls=tuple(call for call in CALLS if gateway is not None or call.client != graph.INGRESS),
        gateway=gateway,
    )


def gateway_only(app: str) -> bool:
    """Whether nobody but the ingress gateway calls this service."""
    return {call.client for call in CALLS if call.server == app} == {graph.INGRESS}


def versions(app: str) -> tuple[str, ...]:
    """The versions of one of Bookinfo's services; () for a service that is not Bookinfo's."""
    return tuple(row.version for row in WORKLOADS if row.app == app)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingress:
    """The gateway through which Bookinfo is reached; its component knows these figures."""

    selector: Mapping[str, str]
    """Labels of its pods."""

    port: int
    """The port on which its pods listen for HTTP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BookinfoArgs:
    """Where Bookinfo goes and how it is reached."""

    namespace: str
    """A namespace of the mesh."""

    ingress: Ingress | None
    """The gateway; None where the mesh has none, and then there is no way in from outside."""

    replicas: int = 1
    """Pods of each version, 1 or more."""

    istiod: Sequence[Resource] = ()
    """What must be ready before pods are born and Istio objects are written."""


def gateway_spec(ingress: Ingress) -> GatewaySpec:
    """Specification of the Gateway `bookinfo-gateway`."""
    return {
        "selector": dict(ingress.selector),
        "servers": [
            {
                "port": {"number": ingress.port, "name": "http", "protocol": "HTTP"},
                "hosts": ["*"],
            }
        ],
    }


def virtual_service_spec() -> VirtualServiceSpec:
    """Specification of the VirtualService `bookinfo`."""
    return {
        "hosts": ["*"],
        "gateways": ["bookinfo-gateway"],
        "http": [
            {
                "match": [
                    {"uri": {"exact": PAGE}},
                    {"uri": {"prefix": "/static"}},
                    {"uri": {"exact": "/login"}},
                    {"uri": {"exact": "/logout"}},
                    {"uri": {"prefix": "/api/v1/products"}},
                ],
                "route": [{"destination": {"host": "productpage", "port": {"number": _PORT}}}],
            }
        ],
    }


def how_to_open(namespace: str, kubectl: str) -> str:
    """What a person types to open productpage where the mesh has no gateway.

    Args:
        namespace: Where Bookinfo is.
        kubectl: How a command that talks to the cluster begins.
    """
    return (
        f"{kubectl} -n {namespace} port-forward service/productpage {_PORT}:{_PORT}"
        f"  # then open http://127.0.0.1:{_PORT}{PAGE}"
    )


class Bookinfo(ComponentResource):
    """`service-mesh:bookinfo:Bookinfo`: an Application, a Gateway and a VirtualService.

    The namespace must exist before; what waits for istiod waits for `istiod` of the arguments.
    """

    services: dict[str, int]
    """Port of each Service, by name."""

    def __init__(self, name: str, args: BookinfoArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("service-mesh:bookinfo:Bookinfo", name, {}, opts)
        application = Application(
            f"{name}-app",
            ApplicationArgs(
                namespace=args.namespace,
                workloads=WORKLOADS,
                account_prefix=_ACCOUNT_PREFIX,
                replicas=args.replicas,
                pods_after=args.istiod,
            ),
            opts=ResourceOptions(parent=self),
        )
        self.services = application.services
        if args.ingress is not None:
            Gateway(
                f"{name}-gateway",
                name="bookinfo-gateway",
                namespace=args.namespace,
                spec=gateway_spec(args.ingress),
                opts=child(self, after=args.istiod),
            )
            VirtualService(
                f"{name}-virtual-service",
                name="bookinfo",
                namespace=args.namespace,
                spec=virtual_service_spec(),
                opts=child(self, after=args.istiod),
            )
        self.register_outputs({"services": self.services})
