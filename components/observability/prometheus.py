"""Prometheus, which collects the metrics of istiod, of every proxy and of applications.

**It works under STRICT without a sidecar and without certificates.** What it scrapes in a pod of
the mesh are ports of the proxy itself, 15020 (istio-agent: Envoy's, its own and the application's
metrics in one answer) and 15090 (Envoy's own), and the injected iptables rules leave these two out
of what goes through Envoy. So no PeerAuthentication applies to them. istiod has no sidecar at all.
An application is not scraped on its own port: the agent asks it over the pod's loopback.
https://istio.io/latest/docs/ops/integrations/prometheus/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from pulumi import ComponentResource, ResourceOptions

from components.kinds import ROOT_NAMESPACE
from components.observability.images import PROMETHEUS
from components.observability.workload import (
    ConfigFile,
    Folder,
    Port,
    Probe,
    Rule,
    Workload,
    as_yaml,
    deploy,
    url,
)

NAME = "prometheus"
"""Of the Service, and of all else."""

PORT = 9090
"""The Service's."""

_CONFIG = "/etc/prometheus/prometheus.yml"
_DATA = "/prometheus"

SCRAPE_INTERVAL_S = 15
"""Seconds between two looks at a target."""

_SCRAPE_TIMEOUT_S = 10

_RETENTION = re.compile(r"(\d{1,5})([hdwy])", re.ASCII)
_HOURS = {"h": 1, "d": 24, "w": 24 * 7, "y": 24 * 365}
_LONGEST_H = 10 * _HOURS["y"]

_STORAGE = re.compile(r"([1-9]\d{0,5})(Mi|Gi|Ti)", re.ASCII)
_MIB = {"Mi": 1, "Gi": 1024, "Ti": 1024 * 1024}

_FILLED = 0.8
"""Share of a volume that blocks of samples may take: the write-ahead log and compaction need room.

https://prometheus.io/docs/prometheus/latest/storage/#right-sizing-retention-size
"""


class PodSelector(TypedDict):
    """Which objects of a role the API server is asked for."""

    role: str
    label: str


class Namespaces(TypedDict):
    """Where pods are looked for."""

    names: list[str]


class PodDiscovery(TypedDict):
    """Targets from the Kubernetes API: with role `pod` one for each port of each container."""

    role: str
    namespaces: NotRequired[Namespaces]
    selectors: NotRequired[list[PodSelector]]


class RelabelConfig(TypedDict, total=False):
    """One step from what was discovered to a target; the regex matches the whole value."""

    source_labels: list[str]
    regex: str
    action: str
    target_label: str
    replacement: str


class StaticConfig(TypedDict):
    """Targets that are always there."""

    targets: list[str]


class ScrapeConfig(TypedDict):
    """A kind of target and how it is found."""

    job_name: str
    kubernetes_sd_configs: NotRequired[list[PodDiscovery]]
    static_configs: NotRequired[list[StaticConfig]]
    relabel_configs: NotRequired[list[RelabelConfig]]


# functional, because `global` is a word of Python's
PrometheusConfig = TypedDict(
    "PrometheusConfig", {"global": dict[str, str], "scrape_configs": list[ScrapeConfig]}
)
"""The configuration file: https://prometheus.io/docs/prometheus/latest/configuration/configuration/

Only what both Prometheus 2.42 and 3.x know.
"""


def retention_problem(text: str) -> str | None:
    """What must be written for a retention instead of this text; None where it is right."""
    shape = _RETENTION.fullmatch(text)
    if shape and 1 <= int(shape[1]) * _HOURS[shape[2]] <= _LONGEST_H:
        return None
    return "a whole number and h, d, w or y, from 1h to 10y"


def storage_problem(text: str) -> str | None:
    """What must be written for the size of a volume instead of this text; None where it is right.

    Kubernetes knows more units; these are the ones in which volumes are sold.
    """
    if _STORAGE.fullmatch(text):
        return None
    return "a whole number from 1 to 999999 and Mi, Gi or Ti, such as 10Gi"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrometheusArgs:
    """How long and where samples are kept."""

    namespace: str = ROOT_NAMESPACE
    """Where it runs."""

    retention: str = "15d"
    """How long samples are kept: a number and h, d, w or y, 1h to 10y. 15d is Prometheus' own."""

    storage: str | None = None
    """Size of the volume, e.g. "10Gi" (Mi, Gi, Ti); None = samples go with the pod."""

    memory_limit_mib: int = 2048
    """Memory above which it is killed, in MiB. It grows with the number of series."""

    def __post_init__(self) -> None:
        """Refuse what Prometheus or Kubernetes would refuse later.

        Raises:
            ValueError: retention or storage is not written as it must be.
        """
        if allowed := retention_problem(self.retention):
            raise ValueError(f"retention is {self.retention}; expected {allowed}")
        if self.storage is not None and (allowed := storage_problem(self.storage)):
            raise ValueError(f"storage is {self.storage}; expected {allowed}")


class Prometheus(ComponentResource):
    """`service-mesh:observability:Prometheus`: one server, its configuration and its storage."""

    url: str
    """Its address inside the cluster."""

    def __init__(
        self, name: str, args: PrometheusArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:observability:Prometheus", name, {}, opts)
        self.url = url(NAME, args.namespace, PORT)
        deploy(name, _workload(args), self)
        self.register_outputs({"url": self.url})


def prometheus_config() -> PrometheusConfig:
    """What is scraped: istiod, every pod that asks for it, proxies whose pod does not, itself."""
    return {
        "global": {
            "scrape_interval": f"{SCRAPE_INTERVAL_S}s",
            "scrape_timeout": f"{_SCRAPE_TIMEOUT_S}s",
        },
        "scrape_configs": [_istiod(), _pods(), _proxies(), _itself()],
    }


def _istiod() -> ScrapeConfig:
    return {
        "job_name": "istiod",
        "kubernetes_sd_configs": [
            {
                "role": "pod",
                "namespaces": {"names": [ROOT_NAMESPACE]},
                "selectors": [{"role": "pod", "label": "app=istiod"}],
            }
        ],
        "relabel_configs": [_keep("container_port_name", "http-monitoring"), *_WHICH_POD],
    }


def _pods() -> ScrapeConfig:
    """Pods with `prometheus.io/scrape: "true"`.

    The injector writes these annotations on pods with a sidecar and on gateways, and points them at
    the agent, 15020 and /stats/prometheus.
    """
    return {
        "job_name": "kubernetes-pods",
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": [
            _keep("annotation_prometheus_io_scrape", "true"),
            *_RUNNING,
            # istiod asks for it as well, and has its own job
            _drop(("namespace", "label_app"), f"{ROOT_NAMESPACE};istiod"),
            _write("annotation_prometheus_io_scheme", "(https?)", "__scheme__"),
            _write("annotation_prometheus_io_path", "(.+)", "__metrics_path__"),
            *_address("annotation_prometheus_io_port", r"(\d+)"),
            *_WHICH_POD,
            *_WHICH_APP,
        ],
    }


def _proxies() -> ScrapeConfig:
    """Envoy's own metrics where the pod is not scraped: annotated "false", or without merging.

    A proxy that nobody asks is an edge about which nothing is known.
    """
    return {
        "job_name": "envoy-stats",
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": [
            _keep("container_port_name", ".*-envoy-prom"),
            *_RUNNING,
            _drop(("annotation_prometheus_io_scrape",), "true"),
            {"target_label": "__metrics_path__", "replacement": "/stats/prometheus"},
            *_WHICH_POD,
            *_WHICH_APP,
        ],
    }


def _itself() -> ScrapeConfig:
    return {
        "job_name": "prometheus",
        "static_configs": [{"targets": [f"localhost:{PORT}"]}],
    }


def _found(what: str) -> str:
    """The label under which discovery tells something about a pod."""
    return f"__meta_kubernetes_{what}" if what == "namespace" else f"__meta_kubernetes_pod_{what}"


def _keep(what: str, regex: str) -> RelabelConfig:
    return {"source_labels": [_found(what)], "regex": regex, "action": "keep"}


def _drop(what: tuple[str, ...], regex: str) -> RelabelConfig:
    return {"source_labels": [_found(one) for one in what], "regex": regex, "action": "drop"}


def _write(what: str, regex: str, label: str) -> RelabelConfig:
    return {"source_labels": [_found(what)], "regex": regex, "target_label": label}


def _address(port: str, digits: str) -> list[RelabelConfig]:
    # an IPv6 address stands in brackets before a port
    return [
        {
            "source_labels": [_found("ip"), _found(port)],
            "regex": f"{address};{digits}",
            "target_label": "__address__",
            "replacement": replacement,
        }
        for address, replacement in (
            (r"([\d.]+)", "$1:$2"),
            (r"([\da-fA-F:.]*:[\da-fA-F:.]*)", "[$1]:$2"),
        )
    ]


_RUNNING = [_drop(("phase",), "Pending|Succeeded|Failed")]
_WHICH_POD = [
    _write("namespace", "(.+)", "namespace"),
    _write("name", "(.+)", "pod"),
]
# Not every label of the pod: each new value of one would begin all series of the pod anew.
_WHICH_APP = [
    _write("label_app", "(.+)", "app"),
    _write("label_version", "(.+)", "version"),
]


def _workload(args: PrometheusArgs) -> Workload:
    flags = [
        f"--config.file={_CONFIG}",
        f"--storage.tsdb.path={_DATA}",
        f"--storage.tsdb.retention.time={args.retention}",
    ]
    if args.storage is not None:
        flags.append(f"--storage.tsdb.retention.size={_retained_mib(args.storage)}MB")
    # No --web.enable-lifecycle: whoever can reach the Service could stop it. A change of the
    # configuration restarts the pod instead.
    return Workload(
        name=NAME,
        namespace=args.namespace,
        image=PROMETHEUS,
        args=tuple(flags),
        services={NAME: (Port(name="http", number=PORT),)},
        ready=Probe(path="/-/ready", port=PORT),
        alive=Probe(path="/-/healthy", port=PORT),
        config=(ConfigFile(path=_CONFIG, text=as_yaml(prometheus_config())),),
        folders=(Folder(name="data", path=_DATA, storage=args.storage),),
        # what discovery of role `pod` asks for, and nothing else
        rules=(Rule(groups=("",), resources=("pods",)),),
        memory_request_mib=256,
        memory_limit_mib=args.memory_limit_mib,
        cpu_request_m=50,
        grace_period_s=60,
    )


def _retained_mib(storage: str) -> int:
    shape = _STORAGE.fullmatch(storage)
    assert shape is not None, "PrometheusArgs has looked at it"  # noqa: S101 tells mypy
    return int(int(shape[1]) * _MIB[shape[2]] * _FILLED)
