"""Kiali, connected to Prometheus, Grafana and Jaeger, and allowed to look only.

Its own pod calls the three directly: they are outside of the mesh, as it is, so STRICT does not
concern them. It does not show what istiod told a proxy, nor a proxy's configuration: Kiali asks for
that by forwarding ports of pods, and that right reaches every port of every pod, past any policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NotRequired, TypedDict

from pulumi import ComponentResource, Input, ResourceOptions
from pulumi_random import RandomPassword

from components.observability import images
from components.observability.workload import (
    ConfigFile,
    Port,
    Probe,
    Rule,
    SecretFile,
    Workload,
    as_yaml,
    deploy,
    url,
)

_PORT = 20001
_ROOT = "/kiali"
_CONFIG = "/kiali-configuration/config.yaml"
_OVERRIDES = "/kiali-override-secrets"
"""Here Kiali looks for `<name>/value.txt` (config/config.go): the value is that file's."""

_KEY_LENGTH = 32
"""Bytes of the key that signs logins: 16, 24 or 32 are allowed (config/config.go)."""

# The reading half of the roles of samples/addons/kiali.yaml, less what other ways to log in, other
# platforms and writing need.
_RULES = (
    Rule(
        groups=("",),
        resources=(
            "configmaps",
            "endpoints",
            "namespaces",
            "pods",
            "pods/log",
            "replicationcontrollers",
            "services",
        ),
    ),
    Rule(groups=("apps",), resources=("daemonsets", "deployments", "replicasets", "statefulsets")),
    Rule(groups=("batch",), resources=("cronjobs", "jobs")),
    Rule(
        groups=(
            "extensions.istio.io",
            "gateway.networking.k8s.io",
            "inference.networking.k8s.io",
            "networking.istio.io",
            "security.istio.io",
            "telemetry.istio.io",
        ),
        resources=("*",),
    ),
    Rule(groups=("admissionregistration.k8s.io",), resources=("mutatingwebhookconfigurations",)),
)


class KialiAuth(StrEnum):
    """How people log in (https://kiali.io/docs/configuration/authentication/)."""

    TOKEN = "token"  # noqa: S105 - a strategy's name
    """With a token of a Kubernetes account, whose rights they then have: `kubectl create token`."""

    ANONYMOUS = "anonymous"
    """Not at all: whoever reaches Kiali sees everything that Kiali may see."""


class Auth(TypedDict):
    """How people log in."""

    strategy: str


class Deployment(TypedDict):
    """What Kiali should know of its own deployment."""

    cluster_wide_access: bool
    instance_name: str
    namespace: str
    view_only_mode: bool


class PrometheusService(TypedDict):
    """Where the metrics are."""

    enabled: bool
    url: str


class ServiceAuth(TypedDict):
    """How Kiali logs in to a service; a password comes from a file."""

    type: str
    username: str


class DashboardVariables(TypedDict):
    """Parameters of a dashboard's address that Kiali fills in."""

    namespace: str


class DashboardLink(TypedDict):
    """A dashboard, found in Grafana by its title."""

    name: str
    variables: DashboardVariables


class GrafanaService(TypedDict):
    """Where Grafana is."""

    enabled: bool
    auth: NotRequired[ServiceAuth]
    dashboards: NotRequired[list[DashboardLink]]
    external_url: NotRequired[str]
    internal_url: NotRequired[str]


class TracingService(TypedDict):
    """Where the traces are."""

    enabled: bool
    internal_url: NotRequired[str]
    provider: NotRequired[str]
    use_grpc: NotRequired[bool]


class IstioService(TypedDict):
    """What Kiali asks istiod itself."""

    istio_api_enabled: bool


class ExternalServices(TypedDict):
    """Everything Kiali asks."""

    grafana: GrafanaService
    istio: IstioService
    prometheus: PrometheusService
    tracing: TracingService


class Metrics(TypedDict):
    """Kiali's metrics of itself."""

    enabled: bool


class Observability(TypedDict):
    """What Kiali tells about itself."""

    metrics: Metrics


class Server(TypedDict):
    """Where Kiali listens."""

    observability: Observability
    port: int
    web_root: str


class KialiConfig(TypedDict):
    """The slice of Kiali's configuration that is written here.

    https://kiali.io/docs/configuration/kialis.kiali.io/ and config/config.go of kiali/kiali, of
    the release in `images`; Kiali drops a key it does not know without a word.
    """

    auth: Auth
    deployment: Deployment
    external_services: ExternalServices
    server: Server


@dataclass(frozen=True, kw_only=True, slots=True)
class GrafanaAccess:
    """How Kiali and its users get to Grafana."""

    url: str
    """Its address for pods."""

    password: Input[str]
    """Password of `user`; it is made a secret."""

    user: str = "admin"
    """Who Kiali logs in as, to look up the addresses of dashboards."""

    dashboards: tuple[str, ...] = ()
    """Titles of the dashboards that Kiali links to, each with a variable `namespace`."""

    external_url: str = "http://localhost:3000"
    """Its address in a user's browser, for links; the default is a forwarded port."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KialiArgs:
    """What Kiali shows, and to whom."""

    namespace: str
    """Where it runs; a namespace that exists."""

    prometheus_url: str
    """Where the metrics are, as a pod reaches it. Kiali's graph is made of nothing else."""

    grafana: GrafanaAccess | None = None
    """Grafana; None = no links to it."""

    tracing_url: str | None = None
    """Jaeger's query service (HTTP) as a pod reaches it; None = no traces."""

    auth: KialiAuth = KialiAuth.TOKEN
    """How people log in."""


class Kiali(ComponentResource):
    """`service-mesh:observability:Kiali`: one pod that reads the cluster and asks the other parts.

    Needs its namespace; waits for nothing of what it shows.
    """

    url: str
    """Its address for other pods of the cluster, path included."""

    def __init__(self, name: str, args: KialiArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("service-mesh:observability:Kiali", name, {}, opts)
        self.url = url("kiali", args.namespace, _PORT) + _ROOT
        key = RandomPassword(
            f"{name}-signing-key",
            length=_KEY_LENGTH,
            # one byte a character
            special=False,
            opts=ResourceOptions(parent=self),
        )
        secrets = [_override("login-token-signing-key", key.result)]
        if args.grafana is not None:
            secrets.append(_override("grafana-password", args.grafana.password))
        deploy(
            name,
            Workload(
                name="kiali",
                namespace=args.namespace,
                image=images.KIALI,
                services={"kiali": (Port(name="http", number=_PORT),)},
                ready=Probe(path=f"{_ROOT}/healthz", port=_PORT),
                command=("/opt/kiali/kiali", "-config", _CONFIG),
                config=(ConfigFile(path=_CONFIG, text=as_yaml(config(args))),),
                secrets=tuple(secrets),
                rules=_RULES,
                memory_limit_mib=1024,
            ),
            self,
        )
        self.register_outputs({"url": self.url})


def config(args: KialiArgs) -> KialiConfig:
    """Kiali's configuration, without its secrets."""
    return {
        "auth": {"strategy": args.auth.value},
        "deployment": {
            "cluster_wide_access": True,
            "instance_name": "kiali",
            "namespace": args.namespace,
            "view_only_mode": True,
        },
        "external_services": {
            "grafana": _grafana(args.grafana),
            "istio": {"istio_api_enabled": False},
            "prometheus": {"enabled": True, "url": args.prometheus_url},
            "tracing": _tracing(args.tracing_url),
        },
        "server": {
            "observability": {"metrics": {"enabled": False}},
            "port": _PORT,
            "web_root": _ROOT,
        },
    }


def _grafana(grafana: GrafanaAccess | None) -> GrafanaService:
    if grafana is None:
        # without a word, Kiali takes it to be in istio-system
        return {"enabled": False}
    return {
        "enabled": True,
        "auth": {"type": "basic", "username": grafana.user},
        "dashboards": [
            {"name": title, "variables": {"namespace": "var-namespace"}}
            for title in grafana.dashboards
        ],
        "external_url": grafana.external_url,
        "internal_url": grafana.url,
    }


def _tracing(tracing_url: str | None) -> TracingService:
    if tracing_url is None:
        return {"enabled": False}
    return {
        "enabled": True,
        "internal_url": tracing_url,
        "provider": "jaeger",
        # its gRPC service is not HTTP's port, and is told by no address that people use
        "use_grpc": False,
    }


def _override(name: str, value: Input[str]) -> SecretFile:
    return SecretFile(key=name, path=f"{_OVERRIDES}/{name}/value.txt", value=value)
