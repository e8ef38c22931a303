"""Parsed, typed, frozen objects: whatever is written in them, reading them never raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cached_property, lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from tlscheck.documents import items, mapping

Labels = Mapping[str, str]
TLS_MODE = "security.istio.io/tlsMode"
STATUS = "sidecar.istio.io/status"
INJECT = "sidecar.istio.io/inject"
TUNNEL = "networking.istio.io/tunnel"
MODE = "istio.io/dataplane-mode"
NEVER_INJECTED = {"kube-system", "kube-public", "kube-node-lease", "local-path-storage"}
MAX_PORT = 65535


def text(value: object) -> str:
    """Return a scalar as Kubernetes would have been sent it, anything else as nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""


def number(value: object) -> int:
    """Return a port number, 0 when it is not one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        found = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else 0
    except ValueError:
        return 0
    return found if 0 < found <= MAX_PORT else 0


def labels(value: object) -> dict[str, str]:
    """Return labels or annotations."""
    return {text(k): text(v) for k, v in mapping(value).items()}


def strings(value: object) -> tuple[str, ...]:
    """Return a list's scalars."""
    return tuple(text(item) for item in items(value) if text(item))


def instant(value: object) -> str:
    """Return a timestamp that sorts; an object without one counts as the oldest, as in Go."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(value)
    if isinstance(value, datetime):
        try:
            zoned = value if value.tzinfo else value.replace(tzinfo=UTC)
            return zoned.astimezone(UTC).isoformat(timespec="seconds")
        except (OverflowError, ValueError):
            return ""
    return value.isoformat() if type(value) is date else ""


def subset_of(selector: Labels, of: Labels) -> bool:
    """Whether every pair of the selector is among the labels."""
    return selector.items() <= of.items()


def selector_of(value: object) -> Labels | None:
    """Return a workload selector's labels; None when there is no selector at all."""
    return labels(mapping(value).get("matchLabels")) if isinstance(value, Mapping) else None


def host_matches(name: str, pattern: str) -> bool:
    """Whether the pattern, exact or `*suffix`, covers the name (itself possibly `*suffix`)."""
    if pattern.startswith("*"):
        return name.removeprefix("*").endswith(pattern[1:])
    return name == pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshConfig:
    """The settings of istiod that change an answer."""

    root_namespace: str = "istio-system"
    enable_auto_mtls: bool = True
    ambient: bool = False
    """PILOT_ENABLE_AMBIENT of istiod: sidecars and gateways may send HBONE."""
    domain: str = "cluster.local"
    outbound_allow_any: bool = True
    service_export_to: tuple[str, ...] = ("*",)
    destination_rule_export_to: tuple[str, ...] = ("*",)
    virtual_service_export_to: tuple[str, ...] = ("*",)

    @classmethod
    def parse(cls, value: Mapping[str, Any], *, ambient: bool = False) -> MeshConfig:
        """Read a MeshConfig mapping (camelCase, as in the ConfigMap `istio`, key `mesh`)."""
        given = mapping(value)
        auto = given.get("enableAutoMtls")
        policy = text(mapping(given.get("outboundTrafficPolicy")).get("mode"))
        meta = mapping(mapping(given.get("defaultConfig")).get("proxyMetadata"))
        return cls(
            root_namespace=text(given.get("rootNamespace")) or "istio-system",
            enable_auto_mtls=auto is None or text(auto).lower() != "false",
            ambient=ambient
            or text(given.get("ambient")).lower() == "true"
            or text(meta.get("ISTIO_META_ENABLE_HBONE")).lower() == "true",
            domain=text(given.get("domain")) or "cluster.local",
            outbound_allow_any=policy != "REGISTRY_ONLY",
            service_export_to=strings(given.get("defaultServiceExportTo")) or ("*",),
            destination_rule_export_to=strings(given.get("defaultDestinationRuleExportTo"))
            or ("*",),
            virtual_service_export_to=strings(given.get("defaultVirtualServiceExportTo")) or ("*",),
        )


class Proxy(StrEnum):
    """What stands beside a workload (section 2)."""

    SIDECAR = "sidecar"
    GATEWAY = "gateway"
    WAYPOINT = "waypoint"
    AMBIENT = "ambient"
    PROXYLESS = "proxyless gRPC"
    NONE = "no proxy"


@dataclass(frozen=True, kw_only=True)
class Meta:
    """Name, place and age of an object."""

    kind: str
    namespace: str
    name: str
    created: str = ""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def subject(self) -> str:
        """`Kind namespace/name`."""
        return f"{self.kind} {self.key}"

    @property
    def age(self) -> tuple[str, str, str]:
        """Oldest first, ties by name, then namespace (3.3)."""
        return self.created, self.name, self.namespace


@dataclass(frozen=True, kw_only=True)
class Ports:
    """A comma-separated annotation of ports: `*` is all of them."""

    all: bool = False
    listed: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, value: str) -> Ports:
        """Read the annotation."""
        found = frozenset(number(part.strip()) for part in value.split(",")) - {0}
        return cls(all=value.strip() == "*", listed=found)

    def __contains__(self, port: int) -> bool:
        return self.all or port in self.listed


NO_PORTS, ALL_PORTS = Ports(), Ports(all=True)


@lru_cache(maxsize=4096)
def _network_holds(network: str, address: str) -> bool:
    try:
        return ip_address(address) in ip_network(network, strict=False)
    except ValueError:
        return False


def in_ranges(ranges: str, address: str) -> bool:
    """Whether an address lies in a comma-separated list of CIDRs; `*` is all of them."""
    return any(
        part.strip() == "*" or _network_holds(part.strip(), address) for part in ranges.split(",")
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """A pod, the template of pods to come, or a machine."""

    meta: Meta
    name: str
    """As printed: `namespace/pod` or `ep:<address>`."""
    labels: Labels
    annotations: Labels = field(default_factory=dict)
    proxy: Proxy
    tag: str = "disabled"
    """What istiod believes of the endpoint: `istio` is the only value that gets mTLS."""
    tunnel: bool = False
    """Takes HBONE."""
    template: bool = False
    addresses: tuple[str, ...] = ()
    container_ports: Mapping[str, int] = field(default_factory=dict)
    own_certificates: bool = False
    """TLS_CLIENT_CERT_CHAIN: files take the place of Istio's certificates (section 7)."""

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.meta.namespace

    @property
    def hbone(self) -> bool:
        """Whether ztunnel may send it HBONE (section 10)."""
        return self.proxy is Proxy.AMBIENT or (self.tunnel and self.proxy is not Proxy.NONE)

    @cached_property
    def _inbound(self) -> tuple[Ports, Ports]:
        prefix, notes = "traffic.sidecar.istio.io/", self.annotations
        excluded, included = prefix + "excludeInboundPorts", prefix + "includeInboundPorts"
        if excluded not in notes and included not in notes:
            return NO_PORTS, ALL_PORTS
        return Ports.parse(notes.get(excluded, "")), Ports.parse(notes.get(included, "*"))

    def intercepts(self, port: int) -> bool:
        """Whether inbound bytes to this container port pass the sidecar (section 9)."""
        excluded, included = self._inbound
        return (
            port not in (15020, 15021, 15090)
            and port not in excluded
            and port in included
            and self.annotations.get("sidecar.istio.io/interceptionMode") != "NONE"
        )

    @cached_property
    def captures_all(self) -> bool:
        """Whether nothing that leaves is kept from the proxy."""
        prefix = "traffic.sidecar.istio.io/"
        return self.annotations.get("sidecar.istio.io/interceptionMode") != "NONE" and not any(
            prefix + key in self.annotations
            for key in (
                "excludeOutboundPorts",
                "excludeOutboundIPRanges",
                "includeOutboundIPRanges",
            )
        )

    def captures(self, port: int, address: str) -> bool:
        """Whether outbound bytes to this address and port pass the sidecar (section 5)."""
        prefix, notes = "traffic.sidecar.istio.io/", self.annotations
        if notes.get("sidecar.istio.io/interceptionMode") == "NONE":
            return False
        if port in Ports.parse(notes.get(prefix + "excludeOutboundPorts", "")):
            return False
        if address and in_ranges(notes.get(prefix + "excludeOutboundIPRanges", ""), address):
            return False
        if port in Ports.parse(notes.get(prefix + "includeOutboundPorts", "")):
            return True
        included = notes.get(prefix + "includeOutboundIPRanges", "*")
        return in_ranges(included, address) if address else bool(included.strip())


class Protocol(StrEnum):
    """What the proxy takes a port to carry (section 4)."""

    HTTP = "HTTP"
    TCP = "TCP"
    AUTO = "auto"
    UDP = "UDP"


_PROTOCOLS = dict.fromkeys(("http", "http2", "grpc", "grpc-web", "http_proxy"), Protocol.HTTP)
_PROTOCOLS |= dict.fromkeys(("tcp", "tls", "https", "mongo", "redis", "mysql"), Protocol.TCP)
_PROTOCOLS |= {"udp": Protocol.UDP}
_APP = {"kubernetes.io/h2c": Protocol.HTTP, "kubernetes.io/ws": Protocol.HTTP}
_APP |= {"kubernetes.io/wss": Protocol.TCP, "ws": Protocol.HTTP, "wss": Protocol.TCP}


@dataclass(frozen=True, kw_only=True, eq=False)
class Port:
    """A port of a service."""

    number: int
    name: str
    protocol: Protocol
    target: int | str

    @classmethod
    def parse(cls, value: object, *, entry: bool = False) -> Port | None:
        """Read a port of a Service, or of a ServiceEntry."""
        given = mapping(value)
        found, name = number(given.get("number" if entry else "port")), text(given.get("name"))
        target = given.get("targetPort")
        if not found:
            return None
        written = text(given.get("protocol"))
        protocol = _PROTOCOLS.get(written.lower(), Protocol.AUTO)
        if not entry and protocol is not Protocol.UDP:
            app = text(given.get("appProtocol")).lower()
            if app:
                protocol = _APP.get(app) or _PROTOCOLS.get(app, Protocol.AUTO)
            else:
                protocol = _PROTOCOLS.get(name.lower().split("-")[0], Protocol.AUTO)
                if protocol is Protocol.AUTO and found in (25, 53, 3306, 27017):
                    protocol = Protocol.TCP
        return cls(
            number=found,
            name=name,
            protocol=protocol,
            target=number(target) or text(target) or found,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Service:
    """A host name and its ports, from a Service or a ServiceEntry."""

    meta: Meta
    host: str
    ports: tuple[Port, ...]
    selector: Labels | None
    passthrough: bool
    """Headless, or a ServiceEntry with resolution NONE."""
    external: bool
    export_to: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    target: str = ""
    """The externalName."""
    inline: tuple[tuple[Workload, Mapping[str, int]], ...] = ()
    """Endpoints written into a ServiceEntry, with their own ports."""
    dns: bool = False
    headless: bool = False
    waypoint: bool = False

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.meta.namespace


@dataclass(frozen=True, kw_only=True, eq=False)
class PeerAuthentication:
    """What servers accept. Modes: STRICT, PERMISSIVE, DISABLE, or empty for UNSET."""

    meta: Meta
    selector: Labels | None
    mode: str
    ports: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How a DestinationRule says to connect."""

    mode: str
    credential: str = ""
    has_files: bool = False


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The part of a trafficPolicy that matters; its port entries by service port."""

    tls: Tls | None = None
    passthrough: bool = False
    lb: bool = False
    ports: Mapping[int, Policy] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subset:
    """A named part of a host's endpoints."""

    name: str
    labels: Labels
    policy: Policy | None
    owner: str
    """The rule it was written in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DestinationRule:
    """How clients connect."""

    meta: Meta
    written_host: str
    host: str
    selector: Labels | None
    export_to: frozenset[str]
    policy: Policy | None
    subsets: tuple[Subset, ...]


@dataclass(frozen=True, kw_only=True)
class Listener:
    """An egress listener of a Sidecar."""

    port: int
    hosts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sidecar:
    """What its clients may see."""

    meta: Meta
    selector: Labels | None
    egress: tuple[Listener, ...]
    allow_any: bool | None
    """None = as the mesh says."""
    ingress_tls: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class VirtualService:
    """Where hosts are routed; widens what a Sidecar imports."""

    meta: Meta
    hosts: tuple[str, ...]
    export_to: tuple[str, ...]
    destinations: tuple[str, ...]


def fqdn(host: str, namespace: str, domain: str) -> str:
    """Return the full name of a host (6.1): any dot makes it literal."""
    return host if host == "*" or "." in host or not host else f"{host}.{namespace}.svc.{domain}"


class Reader:
    """Turns raw objects into the types above and notes what it could not read."""

    def __init__(self, mesh: MeshConfig) -> None:
        self.mesh = mesh
        self.problems: list[tuple[str, str]] = []
        """Subject and text."""

    def meta(self, raw: Mapping[Any, Any]) -> Meta:
        """Read the metadata."""
        given = mapping(raw.get("metadata"))
        return Meta(
            kind=text(raw.get("kind")),
            namespace=text(given.get("namespace")) or "default",
            name=text(given.get("name")) or text(given.get("generateName")) or "?",
            created=instant(given.get("creationTimestamp")),
        )

    def _mode(self, meta: Meta, value: object, allowed: tuple[str, ...]) -> str:
        mode = text(mapping(value).get("mode"))
        if mode and mode not in (*allowed, "UNSET"):
            self.problems.append((meta.subject, f"unknown mode {mode!r}: taken as not set"))
        return mode if mode in allowed else ""

    def peer_authentication(self, raw: Mapping[Any, Any]) -> PeerAuthentication:
        """Read a PeerAuthentication."""
        meta, spec = self.meta(raw), mapping(raw.get("spec"))
        modes = ("STRICT", "PERMISSIVE", "DISABLE")
        ports = mapping(spec.get("portLevelMtls"))
        return PeerAuthentication(
            meta=meta,
            selector=selector_of(spec.get("selector")),
            mode=self._mode(meta, spec.get("mtls"), modes),
            ports={number(k): self._mode(meta, v, modes) for k, v in ports.items() if number(k)},
        )

    def _policy(self, meta: Meta, value: object) -> Policy | None:
        if not isinstance(value, Mapping):
            return None
        tls = None
        if isinstance(value.get("tls"), Mapping):
            given = mapping(value["tls"])
            # the enum's zero: a tls block without mode is DISABLE
            mode = (
                self._mode(meta, given, ("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"))
                if given.get("mode") is not None
                else "DISABLE"
            )
            if mode:
                tls = Tls(
                    mode=mode,
                    credential=text(given.get("credentialName")),
                    has_files=bool(text(given.get("clientCertificate")))
                    and bool(text(given.get("privateKey"))),
                )
        lb = value.get("loadBalancer")
        ports: dict[int, Policy] = {}
        for entry in items(value.get("portLevelSettings")):
            at = number(mapping(mapping(entry).get("port")).get("number"))
            found = self._policy(meta, {**mapping(entry), "portLevelSettings": None})
            if at and found:
                ports.setdefault(at, found)
        return Policy(
            tls=tls,
            passthrough=mapping(lb).get("simple") == "PASSTHROUGH",
            lb=isinstance(lb, Mapping),
            ports=ports,
        )

    def destination_rule(self, raw: Mapping[Any, Any]) -> DestinationRule:
        """Read a DestinationRule."""
        meta, spec = self.meta(raw), mapping(raw.get("spec"))
        host, selector = text(spec.get("host")), selector_of(spec.get("workloadSelector"))
        subsets: dict[str, Subset] = {}
        for given in map(mapping, items(spec.get("subsets"))):
            if name := text(given.get("name")):
                policy = self._policy(meta, given.get("trafficPolicy"))
                found = Subset(
                    name=name, labels=labels(given.get("labels")), policy=policy, owner=meta.key
                )
                subsets.setdefault(name, found)
        return DestinationRule(
            meta=meta,
            written_host=host,
            host=fqdn(host, meta.namespace, self.mesh.domain),
            selector=selector,
            # rules for some workloads are private to their namespace (6.5)
            export_to=frozenset({"."} if selector is not None else strings(spec.get("exportTo"))),
            policy=self._policy(meta, spec.get("trafficPolicy")),
            subsets=tuple(subsets.values()),
        )

    def sidecar(self, raw: Mapping[Any, Any]) -> Sidecar:
        """Read a Sidecar."""
        spec = mapping(raw.get("spec"))
        egress = []
        for given in map(mapping, items(spec.get("egress"))):
            port = mapping(given.get("port"))
            proxy = text(port.get("protocol")).upper() == "HTTP_PROXY"
            at = (
                0
                if proxy or text(given.get("bind")).startswith("unix")
                else number(port.get("number"))
            )
            egress.append(Listener(port=at, hosts=strings(given.get("hosts"))))
        policy = spec.get("outboundTrafficPolicy")
        return Sidecar(
            meta=self.meta(raw),
            selector=selector_of(_renamed(spec.get("workloadSelector"))) or None,
            egress=tuple(egress),
            # the enum's zero is REGISTRY_ONLY
            allow_any=mapping(policy).get("mode") == "ALLOW_ANY"
            if isinstance(policy, Mapping)
            else None,
            ingress_tls=any(mapping(given).get("tls") for given in items(spec.get("ingress"))),
        )

    def virtual_service(self, raw: Mapping[Any, Any]) -> VirtualService:
        """Read where a VirtualService routes to."""
        meta, spec = self.meta(raw), mapping(raw.get("spec"))
        found = {
            text(mapping(mapping(target).get("destination")).get("host"))
            for kind in ("http", "tcp", "tls")
            for route in items(spec.get(kind))
            for target in items(mapping(route).get("route"))
        }
        found |= {
            text(mapping(mapping(mirror).get("destination", mirror)).get("host"))
            for route in items(spec.get("http"))
            for mirror in (mapping(route).get("mirror"), *items(mapping(route).get("mirrors")))
        }
        full = [fqdn(host, meta.namespace, self.mesh.domain) for host in strings(spec.get("hosts"))]
        return VirtualService(
            meta=meta,
            hosts=tuple(full),
            export_to=strings(spec.get("exportTo")) or self.mesh.virtual_service_export_to,
            destinations=tuple(
                sorted(fqdn(host, meta.namespace, self.mesh.domain) for host in found if host)
            ),
        )

    def service(self, raw: Mapping[Any, Any]) -> Service:
        """Read a Service."""
        meta, spec = self.meta(raw), mapping(raw.get("spec"))
        given = mapping(raw.get("metadata"))
        notes, own = labels(given.get("annotations")), labels(given.get("labels"))
        export = notes.get("networking.istio.io/exportTo", "")
        exported = tuple(part.strip() for part in export.split(",") if part.strip())
        ports = [Port.parse(port) for port in items(spec.get("ports"))]
        address = text(spec.get("clusterIP"))
        outside = spec.get("type") == "ExternalName"
        selector = labels(spec.get("selector"))
        return Service(
            meta=meta,
            host=f"{meta.name}.{meta.namespace}.svc.{self.mesh.domain}",
            ports=tuple(port for port in ports if port),
            selector=selector or None,
            passthrough=address == "None" and not outside,
            headless=address == "None" and not outside,
            external=outside,
            dns=outside,
            export_to=exported or self.mesh.service_export_to,
            addresses=() if address in ("", "None") else (address,),
            target=text(spec.get("externalName")).rstrip(".") if outside else "",
            waypoint=own.get("istio.io/use-waypoint", "none") != "none",
        )

    def service_entry(self, raw: Mapping[Any, Any]) -> Iterator[Service]:
        """Read a ServiceEntry: one service per host."""
        meta, spec = self.meta(raw), mapping(raw.get("spec"))
        found = [Port.parse(port, entry=True) for port in items(spec.get("ports"))]
        inline = []
        for given in map(mapping, items(spec.get("endpoints"))):
            ports = {text(k): number(v) for k, v in mapping(given.get("ports")).items()}
            inline.append((self._machine(meta, given), ports))
        resolution = text(spec.get("resolution")) or "NONE"
        # several endpoints may share an address
        inline.sort(key=lambda pair: (pair[0].name, sorted(pair[1].items())))
        for host in dict.fromkeys(strings(spec.get("hosts"))):
            yield Service(
                meta=meta,
                host=host,
                ports=tuple(port for port in found if port),
                selector=selector_of(_renamed(spec.get("workloadSelector"))) or None,
                passthrough=resolution == "NONE",
                external=spec.get("location") != "MESH_INTERNAL",  # section 7: the default
                dns=resolution.startswith("DNS") or resolution == "DYNAMIC_DNS",
                export_to=strings(spec.get("exportTo")) or self.mesh.service_export_to,
                addresses=strings(spec.get("addresses")),
                inline=tuple(inline),
            )

    def _machine(self, meta: Meta, spec: Mapping[Any, Any]) -> Workload:
        own = labels(spec.get("labels"))
        # section 2: the label, else a service account means a proxy
        tag = own.get(TLS_MODE) or ("istio" if text(spec.get("serviceAccount")) else "disabled")
        address = text(spec.get("address"))
        return Workload(
            meta=meta,
            name=f"ep:{address or meta.key}",
            labels=own,
            proxy=Proxy.SIDECAR if tag == "istio" else Proxy.NONE,
            tag=tag,
            tunnel=own.get(TUNNEL) == "http",
            addresses=(address,) if address else (),
            container_ports={text(k): number(v) for k, v in mapping(spec.get("ports")).items()},
        )

    def workload_entry(self, raw: Mapping[Any, Any]) -> Workload:
        """Read a WorkloadEntry."""
        return self._machine(self.meta(raw), mapping(raw.get("spec")))

    def pod(self, raw: Mapping[Any, Any]) -> Workload:
        """Read a pod as it stands: what is not in it is not there."""
        status = mapping(raw.get("status"))
        several = [text(mapping(ip).get("ip")) for ip in items(status.get("podIPs"))]
        addresses = tuple(dict.fromkeys(ip for ip in (text(status.get("podIP")), *several) if ip))
        found = self._workload(
            self.meta(raw), mapping(raw.get("metadata")), mapping(raw.get("spec"))
        )
        # the addresses of hostNetwork pods are their node's
        shared = text(mapping(raw.get("spec")).get("hostNetwork")) == "true"
        return found if shared else replace(found, addresses=addresses)

    def template(self, raw: Mapping[Any, Any], namespace: Labels) -> Workload:
        """Read the pods that a Deployment or the like would make, injection included."""
        meta, spec = self.meta(raw), mapping(raw.get("spec"))
        if meta.kind == "CronJob":
            spec = mapping(mapping(spec.get("jobTemplate")).get("spec"))
        made = mapping(spec.get("template"))
        return self._workload(
            meta, mapping(made.get("metadata")), mapping(made.get("spec")), namespace
        )

    def _workload(
        self,
        meta: Meta,
        metadata: Mapping[Any, Any],
        spec: Mapping[Any, Any],
        namespace: Labels | None = None,
    ) -> Workload:
        own, notes = labels(metadata.get("labels")), labels(metadata.get("annotations"))
        containers = [mapping(c) for c in items(spec.get("containers"))]
        every = containers + [mapping(c) for c in items(spec.get("initContainers"))]
        agent = next((c for c in every if c.get("name") == "istio-proxy"), None)
        alone = [c.get("name") for c in containers] == ["istio-proxy"]
        ready = agent is not None or STATUS in notes
        networked = text(spec.get("hostNetwork")) == "true"
        injected = False
        if namespace is not None and not ((ready and STATUS in notes) or alone):
            injected = not networked and _injected(meta.namespace, own, notes, namespace)
            ready = ready or injected
        if injected and TLS_MODE not in own and _templates(notes) == {"sidecar"}:
            own[TLS_MODE] = "istio"
        env = {text(mapping(e).get("name")) for e in items(mapping(agent).get("env"))}
        certificates = "TLS_CLIENT_CERT_CHAIN"
        values = {text(mapping(e).get("value")) for e in items(mapping(agent).get("env"))}
        proxy = Proxy.NONE
        if ready:
            proxy = _kind(own, notes, mapping(agent), alone=alone)
            if proxy is Proxy.SIDECAR and "grpc" in values and "ISTIO_META_GENERATOR" in env:
                proxy = Proxy.PROXYLESS
        if proxy is Proxy.NONE and _ambient(own, notes, namespace, networked=networked):
            proxy = Proxy.AMBIENT
        return Workload(
            meta=meta,
            name=meta.key,
            labels=own,
            annotations=notes,
            proxy=proxy,
            tag=own.get(TLS_MODE) or "disabled",
            tunnel=own.get(TUNNEL) == "http"
            or (injected and self.mesh.ambient and proxy is Proxy.SIDECAR),
            template=namespace is not None,
            container_ports={
                text(mapping(p).get("name")): number(mapping(p).get("containerPort"))
                for c in every
                for p in items(c.get("ports"))
                if text(mapping(p).get("name"))
            },
            own_certificates=any(certificates in name for name in env)
            or certificates in notes.get("proxy.istio.io/config", ""),
        )


def _renamed(selector: object) -> object:
    """Return a WorkloadSelector of the networking API (`labels`) under the other API's name."""
    given = mapping(selector)
    return {"matchLabels": given.get("labels")} if given else None


def _templates(notes: Labels) -> set[str]:
    written = notes.get("inject.istio.io/templates", "sidecar")
    return {part.strip() for part in written.split(",") if part.strip()}


def _kind(own: Labels, notes: Labels, agent: Mapping[Any, Any], *, alone: bool) -> Proxy:
    """Tell a sidecar from the other things a proxy container can be (section 2)."""
    arguments = strings(agent.get("args"))[:2]
    if "waypoint" in arguments or own.get("gateway.istio.io/managed", "").endswith(
        "mesh-controller"
    ):
        return Proxy.WAYPOINT
    if (
        "router" in arguments
        or "gateway" in _templates(notes)
        or "gateway.networking.k8s.io/gateway-name" in own
        or (TLS_MODE not in own and (alone or STATUS not in notes) and agent)
    ):
        return Proxy.GATEWAY
    if any(name.startswith("grpc") for name in _templates(notes)):
        return Proxy.PROXYLESS
    return Proxy.SIDECAR


def _injected(namespace: str, own: Labels, notes: Labels, of_namespace: Labels) -> bool:
    """Whether the webhook would be called and would inject (section 2)."""
    switch, revision = of_namespace.get("istio-injection"), of_namespace.get("istio.io/rev")
    called = (
        switch == "enabled"
        or (switch is None and revision is not None)
        or (switch is None and (own.get(INJECT) == "true" or "istio.io/rev" in own))
    )
    if not called or namespace in NEVER_INJECTED:
        return False
    return own.get(INJECT, notes.get(INJECT, "")) != "false"


def _ambient(own: Labels, notes: Labels, namespace: Labels | None, *, networked: bool) -> bool:
    """Whether ztunnel stands before the pod: known of a pod, inferred of a template."""
    if namespace is None:
        return notes.get("ambient.istio.io/redirection") == "enabled"
    if networked or STATUS in notes:
        return False
    return own.get(MODE) == "ambient" or (
        namespace.get(MODE) == "ambient" and own.get(MODE) != "none"
    )
