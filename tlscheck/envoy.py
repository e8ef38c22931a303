"""CLIENT and SERVER from Envoy's own configuration, in the JSON of its `config_dump`.

The same functions read what istiod would send (`lab.truth`) and what a running proxy has
(`tlscheck.proxies`): the messages are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tlscheck.documents import items, mapping

Json = Mapping[str, Any]

BLACKHOLE = "virtualInbound-blackhole"
"""The chain that catches loops back to the listener's own port."""
BLOCKED = "BLOCKED"
NO_ENDPOINT = "NO_ENDPOINT"
"""The proxy has no such endpoint: it is not ready, or this side has older news than the other."""
NONE = "NONE"
"""The proxy has nothing that accepts the port."""
PLAINTEXT = "PLAINTEXT"

_WORKLOAD_SECRET = "default"  # noqa: S105 (the name of a certificate)
_PASSTHROUGH = "PassthroughCluster"
_MATCH = "envoy.transport_socket_match"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One address behind a cluster."""

    address: str
    port: int
    labels: Mapping[str, str]
    """What a cluster's transport sockets are chosen by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What one proxy has, or would be sent."""

    clusters: Mapping[str, Json]
    assignments: Mapping[str, Json]
    inbound: tuple[Json, ...]
    """Filter chains for what comes in."""
    passes_unknown: bool
    """Whether calls to hosts that it does not know leave it as they are."""

    @classmethod
    def of(
        cls, clusters: Iterable[Json], assignments: Iterable[Json], listeners: Iterable[Json]
    ) -> Config:
        """Take Envoy's resources: Cluster, ClusterLoadAssignment and Listener."""
        by_name = {str(one.get("name")): one for one in listeners}
        inbound = mapping(by_name.get("virtualInbound"))
        leaving = mapping(by_name.get("virtualOutbound"))
        return cls(
            clusters={one["name"]: one for one in clusters if "name" in one},
            assignments={one["cluster_name"]: one for one in assignments if "cluster_name" in one},
            inbound=tuple(map(mapping, items(inbound.get("filter_chains")))),
            # both clusters are always there: the filter says which of them it is
            passes_unknown=any(
                mapping(mapping(one).get("typed_config")).get("cluster") == _PASSTHROUGH
                for chain in map(mapping, items(leaving.get("filter_chains")))
                for one in items(chain.get("filters"))
            ),
        )

    @classmethod
    def dumped(cls, dump: Json) -> Config:
        """Take the answer to `config_dump?include_eds`."""
        return cls.of(
            _dumped(dump, "clusters", "cluster"),
            _dumped(dump, "endpoint_configs", "endpoint_config"),
            _dumped(dump, "listeners", "listener"),
        )

    def endpoints(self, cluster: str) -> list[Endpoint]:
        """The addresses behind a cluster; none for one that keeps the original destination."""
        found = mapping(self.clusters.get(cluster))
        # a dump also lists the addresses that names were resolved to, and original destinations
        own = self.assignments.get(cluster) if found.get("type") == "EDS" else None
        assignment = mapping(own or found.get("load_assignment"))
        return [
            _endpoint(mapping(one))
            for locality in items(assignment.get("endpoints"))
            for one in items(mapping(locality).get("lb_endpoints"))
        ]

    def client(self, cluster: str, address: str | None) -> str:
        """What leaves this proxy through a cluster for an endpoint; None = any address."""
        found = self.clusters.get(cluster)
        if found is None:
            return PLAINTEXT if self.passes_unknown else BLOCKED
        labels: Mapping[str, str] = {}
        endpoints = self.endpoints(cluster)
        if endpoints and address is not None:
            at = next((one for one in endpoints if one.address == address), None)
            if at is None:
                return NO_ENDPOINT
            labels = at.labels
        elif found.get("type") == "EDS":
            return NO_ENDPOINT
        return mode(self._socket(found, labels))

    def port(self, cluster: str, address: str | None) -> int | None:
        """The container port behind a cluster; None where the proxy knows none."""
        return next((one.port for one in self.endpoints(cluster) if one.address == address), None)

    def server(self, port: int) -> str:
        """What this proxy accepts on a container port."""
        usable = [one for one in self.inbound if one.get("name") != BLACKHOLE]
        own = [one for one in usable if _match(one).get("destination_port") == port]
        chains = own or [one for one in usable if not _match(one).get("destination_port")]
        secure = any("transport_socket" in one for one in chains)
        plain = any(
            "transport_socket" not in one and _match(one).get("transport_protocol") != "tls"
            for one in chains
        )
        if secure:
            return "PERMISSIVE" if plain else "STRICT"
        return "DISABLE" if plain else NONE

    def rule(self, cluster: str) -> str | None:
        """`namespace/name` of the DestinationRule that istiod made the cluster by."""
        metadata = mapping(mapping(self.clusters.get(cluster)).get("metadata"))
        path = str(mapping(mapping(metadata.get("filter_metadata")).get("istio")).get("config"))
        before, kind, name = path.rpartition("/destination-rule/")
        return f"{before.rpartition('/')[2]}/{name}" if kind else None

    @staticmethod
    def _socket(cluster: Json, labels: Mapping[str, str]) -> Json:
        for one in map(mapping, items(cluster.get("transport_socket_matches"))):
            if mapping(one.get("match")).items() <= labels.items():
                return mapping(one.get("transport_socket"))
        return mapping(cluster.get("transport_socket"))


def outbound(host: str, port: int, subset: str | None) -> str:
    """Istio's name of the cluster for a service port."""
    return f"outbound|{port}|{subset or ''}|{host}"


def mode(socket: Json) -> str:
    """What a transport socket of a cluster makes of a connection."""
    config = mapping(socket.get("typed_config"))
    if str(config.get("@type")).endswith(".InternalUpstreamTransport"):
        return "HBONE"
    if not str(config.get("@type")).endswith(".UpstreamTlsContext"):
        return PLAINTEXT
    common = mapping(config.get("common_tls_context"))
    secrets = [mapping(s) for s in items(common.get("tls_certificate_sds_secret_configs"))]
    if [one.get("name") for one in secrets] == [_WORKLOAD_SECRET]:
        return "ISTIO_MUTUAL"
    return "MUTUAL" if secrets or items(common.get("tls_certificates")) else "SIMPLE"


def _endpoint(one: Json) -> Endpoint:
    where = mapping(mapping(one.get("endpoint")).get("address"))
    at = mapping(where.get("socket_address"))
    address, port = str(at.get("address")), at.get("port_value")
    if "envoy_internal_address" in where:  # an HBONE tunnel: the far end is its name
        tunnel = str(mapping(where["envoy_internal_address"]).get("endpoint_id"))
        address, _, port = tunnel.rpartition(":")
    labels = mapping(mapping(mapping(one.get("metadata")).get("filter_metadata")).get(_MATCH))
    return Endpoint(address=address.strip("[]"), port=int(port or 0), labels=labels)


def _match(chain: Json) -> Json:
    return mapping(chain.get("filter_chain_match"))


def _dumped(dump: Json, part: str, key: str) -> Iterator[Json]:
    """The resources of one kind: static ones, and dynamic ones that are in force."""
    for section in map(mapping, items(dump.get("configs"))):
        for state in ("static", "dynamic", "dynamic_active"):
            for entry in map(mapping, items(section.get(f"{state}_{part}"))):
                yield mapping(mapping(entry.get("active_state", entry)).get(key))
