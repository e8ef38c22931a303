"""Ask istiod what it would send to a proxy: `python -m lab.truth.ads ISTIOD NODES` prints JSON.

Runs on the lab's node. Only what decides about TLS is kept of clusters, endpoints and listeners.
"""

from __future__ import annotations

import json
import queue
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S = 20
_TYPES = "type.googleapis.com/envoy.config."
CLUSTERS = f"{_TYPES}cluster.v3.Cluster"
ENDPOINTS = f"{_TYPES}endpoint.v3.ClusterLoadAssignment"
LISTENERS = f"{_TYPES}listener.v3.Listener"
_PLAINTEXT = "PLAINTEXT"


def _pb(module: str) -> Any:  # noqa: ANN401 (generated, without types)
    return import_module(f"envoy.{module}_pb2")


def _unpack(message: Any, kind: Any) -> Any:  # noqa: ANN401
    unpacked = kind()
    message.Unpack(unpacked)
    return unpacked


def _mode(socket: Any) -> str:  # noqa: ANN401
    """What a transport socket of a cluster makes of a connection."""
    tls = _pb("extensions.transport_sockets.tls.v3.tls").UpstreamTlsContext
    if not socket.typed_config.Is(tls.DESCRIPTOR):
        return _PLAINTEXT
    common = _unpack(socket.typed_config, tls).common_tls_context
    names = [one.name for one in common.tls_certificate_sds_secret_configs]
    if names == ["default"]:
        return "ISTIO_MUTUAL"
    return "MUTUAL" if names or common.tls_certificates else "SIMPLE"


def _endpoints(assignment: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    found = []
    for locality in assignment.endpoints:
        for one in locality.lb_endpoints:
            at = one.endpoint.address.socket_address
            match = one.metadata.filter_metadata.get("envoy.transport_socket_match")
            labels = {key: str(match[key]) for key in match} if match else {}
            found.append({"address": at.address, "port": at.port_value, "labels": labels})
    return found


def _cluster(cluster: Any) -> dict[str, Any]:  # noqa: ANN401
    matches = [
        {"labels": {k: str(one.match[k]) for k in one.match}, "mode": _mode(one.transport_socket)}
        for one in cluster.transport_socket_matches
    ]
    return {
        "mode": _mode(cluster.transport_socket),
        "matches": matches,
        "eds": cluster.type == type(cluster).EDS,
        "endpoints": _endpoints(cluster.load_assignment),
    }


def _chains(listener: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    return [
        {
            "name": chain.name,
            "port": chain.filter_chain_match.destination_port.value or None,
            "transport": chain.filter_chain_match.transport_protocol,
            "tls": chain.HasField("transport_socket"),
        }
        for chain in listener.filter_chains
    ]


def ask(istiod: str, node: dict[str, Any]) -> dict[str, Any]:
    """Pose as one proxy.

    Raises:
        grpc.RpcError: istiod did not answer in time, or ended the stream.
    """
    discovery = _pb("service.discovery.v3.discovery")
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def sent() -> Iterator[Any]:
        while (request := requests.get()) is not None:
            yield request

    def request(kind: str, names: list[str]) -> None:
        message = discovery.DiscoveryRequest(type_url=kind, resource_names=names)
        message.node.id = node["id"]
        message.node.metadata.update(node["metadata"])
        requests.put(message)

    kinds = {
        CLUSTERS: _pb("config.cluster.v3.cluster").Cluster,
        ENDPOINTS: _pb("config.endpoint.v3.endpoint").ClusterLoadAssignment,
        LISTENERS: _pb("config.listener.v3.listener").Listener,
    }
    clusters: dict[str, Any] = {}
    with grpc.insecure_channel(istiod) as channel:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            request_serializer=discovery.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery.DiscoveryResponse.FromString,
        )(sent(), timeout=_TIMEOUT_S)
        request(CLUSTERS, [])
        try:
            for response in call:
                found = [_unpack(one, kinds[response.type_url]) for one in response.resources]
                if response.type_url == CLUSTERS:
                    clusters = {one.name: _cluster(one) for one in found}
                    request(ENDPOINTS, [name for name, one in clusters.items() if one["eds"]])
                elif response.type_url == ENDPOINTS:
                    for one in found:
                        clusters[one.cluster_name]["endpoints"] = _endpoints(one)
                    request(LISTENERS, [])
                else:
                    inbound = [_chains(one) for one in found if one.name == "virtualInbound"]
                    return {"clusters": clusters, "inbound": inbound[0] if inbound else []}
        finally:
            requests.put(None)
            call.cancel()
    raise ConnectionError("istiod ended the stream")


if __name__ == "__main__":
    nodes = json.loads(sys.argv[2])
    json.dump({name: ask(sys.argv[1], node) for name, node in nodes.items()}, sys.stdout)
