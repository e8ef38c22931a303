"""The way out of the mesh: hosts outside, reached through the egress gateway and no other way.

A sidecar sends what is meant for such a host to the egress gateway, in mutual TLS, and the gateway
sends it on. Other hosts are refused where the mesh's outboundTrafficPolicy is REGISTRY_ONLY; what
really makes a pod unable to go around the gateway is a NetworkPolicy.
https://istio.io/latest/docs/tasks/traffic-management/egress/egress-gateway/
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pulumi import ComponentResource, Resource, ResourceOptions

from components.istio_api import (
    ClientTls,
    DestinationRule,
    DestinationRuleSpec,
    Gateway,
    GatewaySpec,
    PortTrafficPolicy,
    ServiceEntry,
    ServiceEntrySpec,
    ServicePort,
    Subset,
    VirtualService,
    VirtualServiceSpec,
)
from components.kinds import ROOT_NAMESPACE, child

_HTTP = 80
_MUTUAL_PORT, _PASSTHROUGH_PORT = 80, 443
"""Ports of the egress gateway's Service: for what it decrypts, and for what it only passes on."""

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")
_MOST_PORT = 65535
_MESH = (".svc", ".cluster.local")


_INSIDE = (
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-envoy-external-address",
    "x-envoy-decorator-operation",
)
"""Request headers with which proxies tell one another of pods: certificate, address, service."""


class EgressTls(StrEnum):
    """Who encrypts what leaves the mesh."""

    NONE = "none"
    """Nobody: plain HTTP outside."""

    PASSTHROUGH = "passthrough"
    """The application: the gateway sees the name in its TLS, not the requests."""

    ORIGINATE = "originate"
    """The gateway: the application asks in plain HTTP, on port 80, and the mesh sees requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EgressHost:
    """A host outside the mesh that its workloads may reach."""

    host: str
    """Its full DNS name, as the application says it."""

    port: int
    """Its port, 1 to 65535. Applications use the same, but 80 with ORIGINATE."""

    tls: EgressTls
    """Who encrypts."""

    address: str | None = None
    """Where it really is, an IP address or a DNS name; None: what DNS says of `host`."""

    @property
    def asked_port(self) -> int:
        """The port that applications connect to."""
        return _HTTP if self.tls is EgressTls.ORIGINATE else self.port

    @property
    def name(self) -> str:
        """What its objects are called."""
        return f"egress-{self.host.replace('.', '-')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EgressArgs:
    """Which hosts, and through which gateway."""

    hosts: tuple[EgressHost, ...]
    """Each once."""

    gateway_selector: Mapping[str, str]
    """Labels of the egress gateway's pods."""

    gateway_service: str
    """Name of its Service, in istio-system."""

    def __post_init__(self) -> None:
        """Refuse what would not work as it reads.

        Raises:
            ValueError: `egress_problems` of the hosts, all of them.
        """
        if found := egress_problems(self.hosts, has_gateway=True):
            raise ValueError("; ".join(found))


def egress_problems(hosts: Sequence[EgressHost], *, has_gateway: bool) -> list[str]:
    """Say what would not work as it reads; [] when all is well. Each begins with `egressHosts`.

    Args:
        hosts: all hosts outside.
        has_gateway: whether the mesh has an egress gateway.
    """
    found: list[str] = []
    if hosts and not has_gateway:
        found.append("egressHosts: they need the egress gateway, which is not installed")
    for host, count in Counter(one.host for one in hosts).items():
        if count > 1:
            found.append(f"egressHosts: {host} is said {count} times")
    for one in hosts:
        if one.host.endswith(_MESH):
            found.append(f"egressHosts: {one.host} is a service of the cluster")
        elif not _HOST.fullmatch(one.host) or len(one.host) > 253:  # noqa: PLR2004 as in DNS
            found.append(f"egressHosts: {one.host!r} is no full DNS name in small letters")
        if not 1 <= one.port <= _MOST_PORT:
            found.append(f"egressHosts: port {one.port} of {one.host} is not 1 to {_MOST_PORT}")
        elif one.tls is EgressTls.ORIGINATE and one.port == _HTTP:
            found.append(
                f"egressHosts: {one.host} is asked on port {_HTTP}, and port {_HTTP} is not where"
                " the gateway originates TLS to"
            )
        if one.address is not None and not (_is_ip(one.address) or _HOST.fullmatch(one.address)):
            found.append(f"egressHosts: {one.address!r} of {one.host} is no address or DNS name")
    return found


def service_entry(one: EgressHost) -> ServiceEntrySpec:
    """Specification that makes the host known to every proxy."""
    ports: list[ServicePort] = [
        {"number": one.port, "name": "tls", "protocol": "TLS"}
        if one.tls is EgressTls.PASSTHROUGH
        else {"number": one.asked_port, "name": "http", "protocol": "HTTP"}
    ]
    if one.tls is EgressTls.ORIGINATE:
        ports.append({"number": one.port, "name": "https", "protocol": "HTTPS"})
    spec: ServiceEntrySpec = {
        "hosts": [one.host],
        "location": "MESH_EXTERNAL",
        "ports": ports,
        "resolution": "STATIC" if one.address and _is_ip(one.address) else "DNS",
    }
    if one.address:
        spec["endpoints"] = [{"address": one.address}]
    return spec


def gateway(one: EgressHost, selector: Mapping[str, str]) -> GatewaySpec:
    """Specification of where the egress gateway takes what is meant for the host."""
    passes = one.tls is EgressTls.PASSTHROUGH
    return {
        "selector": dict(selector),
        "servers": [
            {
                "port": {
                    "number": _PASSTHROUGH_PORT if passes else _MUTUAL_PORT,
                    "name": "tls" if passes else "https",
                    "protocol": "TLS" if passes else "HTTPS",
                },
                "hosts": [one.host],
                "tls": {"mode": "PASSTHROUGH" if passes else "ISTIO_MUTUAL"},
            }
        ],
    }


def to_gateway(hosts: Sequence[EgressHost], gateway_host: str) -> DestinationRuleSpec | None:
    """Specification of how sidecars speak to the egress gateway: for each host in its name.

    None where it decrypts nothing.
    """
    subsets: list[Subset] = []
    for one in hosts:
        if one.tls is not EgressTls.PASSTHROUGH:
            policy: PortTrafficPolicy = {
                "port": {"number": _MUTUAL_PORT},
                "tls": {"mode": "ISTIO_MUTUAL", "sni": one.host},
            }
            subsets.append({"name": one.name, "trafficPolicy": {"portLevelSettings": [policy]}})
    return {"host": gateway_host, "subsets": subsets} if subsets else None


def virtual_service(one: EgressHost, gateway_host: str) -> VirtualServiceSpec:
    """Specification of both halves of the way: to the egress gateway, and from there on."""
    if one.tls is EgressTls.PASSTHROUGH:
        return {
            "hosts": [one.host],
            "gateways": ["mesh", one.name],
            "tls": [
                {
                    "match": [{"gateways": ["mesh"], "port": one.port, "sniHosts": [one.host]}],
                    "route": [
                        {
                            "destination": {
                                "host": gateway_host,
                                "port": {"number": _PASSTHROUGH_PORT},
                            }
                        }
                    ],
                },
                {
                    "match": [{"gateways": [one.name], "sniHosts": [one.host]}],
                    "route": [
                        {"destination": {"host": one.host, "port": {"number": one.port}}},
                    ],
                },
            ],
        }
    return {
        "hosts": [one.host],
        "gateways": ["mesh", one.name],
        "http": [
            {
                "match": [{"gateways": ["mesh"], "port": one.asked_port}],
                "route": [
                    {
                        "destination": {
                            "host": gateway_host,
                            "subset": one.name,
                            "port": {"number": _MUTUAL_PORT},
                        }
                    }
                ],
            },
            {
                "match": [{"gateways": [one.name]}],
                "route": [{"destination": {"host": one.host, "port": {"number": one.port}}}],
                "headers": {"request": {"remove": list(_INSIDE)}},
            },
        ],
    }


def originate(one: EgressHost) -> DestinationRuleSpec:
    """Specification of the TLS that the egress gateway begins.

    The host's certificate must be signed by a CA of the proxy's image, and for the host's name.
    """
    tls: ClientTls = {"mode": "SIMPLE", "sni": one.host, "subjectAltNames": [one.host]}
    return {
        "host": one.host,
        "trafficPolicy": {"portLevelSettings": [{"port": {"number": one.port}, "tls": tls}]},
    }


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


class Egress(ComponentResource):
    """`service-mesh:egress:Egress`: for each host what makes it known, and the way to it.

    All stand beside the gateway in istio-system: a DestinationRule from anywhere else would be
    overlooked by the clients of other namespaces. istiod must be ready before: its webhook
    validates them. The gateway's pods need not be.
    """

    hosts: list[str]
    """Names of the hosts outside."""

    def __init__(self, name: str, args: EgressArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("service-mesh:egress:Egress", name, {}, opts)
        gateway_host = f"{args.gateway_service}.{ROOT_NAMESPACE}.svc.cluster.local"
        rule = to_gateway(args.hosts, gateway_host)
        ways = []
        if rule is not None:
            ways = [
                DestinationRule(
                    f"{name}-to-gateway",
                    name="egress-gateway",
                    namespace=ROOT_NAMESPACE,
                    spec=rule,
                    opts=child(self),
                )
            ]
        for one in args.hosts:
            known: list[Resource] = [
                ServiceEntry(
                    f"{name}-{one.host}-entry",
                    name=one.name,
                    namespace=ROOT_NAMESPACE,
                    spec=service_entry(one),
                    opts=child(self),
                ),
                Gateway(
                    f"{name}-{one.host}-gateway",
                    name=one.name,
                    namespace=ROOT_NAMESPACE,
                    spec=gateway(one, args.gateway_selector),
                    opts=child(self),
                ),
            ]
            if one.tls is EgressTls.ORIGINATE:
                known.append(
                    DestinationRule(
                        f"{name}-{one.host}-tls",
                        name=one.name,
                        namespace=ROOT_NAMESPACE,
                        spec=originate(one),
                        opts=child(self),
                    )
                )
            VirtualService(
                f"{name}-{one.host}-routes",
                name=one.name,
                namespace=ROOT_NAMESPACE,
                spec=virtual_service(one, gateway_host),
                # the way is opened last: until then requests go out directly, not nowhere
                opts=child(self, after=[*ways, *known]),
            )
        self.hosts = [one.host for one in args.hosts]
        self.register_outputs({"hosts": self.hosts})
