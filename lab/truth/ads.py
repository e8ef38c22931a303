"""Ask istiod what it would send to a proxy: `python -m lab.truth.ads ISTIOD NODES` prints JSON.

Runs on the lab's node. The JSON is Envoy's own, so that `tlscheck.envoy` reads it as it reads the
`config_dump` of a running proxy.
"""

from __future__ import annotations

import json
import queue
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import MessageToDict

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S = 60
_TYPES = "type.googleapis.com/envoy.config."
CLUSTERS = f"{_TYPES}cluster.v3.Cluster"
ENDPOINTS = f"{_TYPES}endpoint.v3.ClusterLoadAssignment"
LISTENERS = f"{_TYPES}listener.v3.Listener"
_TCP_PROXY = "envoy.filters.network.tcp_proxy"
_TUNNEL = "internal_upstream.v3.internal_upstream"
_KEPT = {
    *("name", "type", "transport_socket", "transport_socket_matches", "load_assignment"),
    *("metadata", "cluster_name", "endpoints", "filter_chains"),
}
_OUTBOUND = "virtualOutbound"
_LISTENERS = {"virtualInbound", _OUTBOUND}


def _pb(module: str) -> Any:  # noqa: ANN401 (generated, without types)
    return import_module(f"envoy.{module}_pb2")


def _unpack(message: Any, kind: Any) -> Any:  # noqa: ANN401
    unpacked = kind()
    message.Unpack(unpacked)
    return unpacked


def _plain(message: Any) -> dict[str, Any]:  # noqa: ANN401
    """The message as Envoy's own `config_dump` writes it, without what says nothing of TLS."""
    _keep(message, _KEPT)
    for chain in getattr(message, "filter_chains", ()):
        _keep(chain, {"name", "filter_chain_match", "transport_socket", "filters"})
        proxies = [_proxied(one) for one in chain.filters if one.name == _TCP_PROXY]
        del chain.filters[:]
        if message.name == _OUTBOUND:
            chain.filters.extend(proxies)
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def _proxied(given: Any) -> Any:  # noqa: ANN401
    """A TCP proxy filter with its cluster alone."""
    kind = _pb("extensions.filters.network.tcp_proxy.v3.tcp_proxy").TcpProxy
    tcp = _unpack(given.typed_config, kind)
    _keep(tcp, {"cluster"})
    given.typed_config.Pack(tcp)
    return given


def _name(resource: dict[str, Any]) -> str:
    return str(resource.get("name", resource.get("cluster_name")))


def _keep(message: Any, names: set[str]) -> None:  # noqa: ANN401
    for field, _ in message.ListFields():
        if field.name not in names:
            message.ClearField(field.name)


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
    # MessageToDict writes messages of types that were imported, and fails on others
    for socket in ("tls.v3.tls", "raw_buffer.v3.raw_buffer", _TUNNEL):
        _pb(f"extensions.transport_sockets.{socket}")
    told: dict[str, Any] = {}
    with grpc.insecure_channel(istiod) as channel:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            request_serializer=discovery.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery.DiscoveryResponse.FromString,
        )(sent(), timeout=_TIMEOUT_S)
        request(CLUSTERS, [])
        try:
            for response in call:
                kind = kinds[response.type_url]
                # istiod sends them in any order, and what it says twice must be equal
                found = sorted(
                    (_plain(_unpack(one, kind)) for one in response.resources), key=_name
                )
                if response.type_url == CLUSTERS:
                    told["clusters"] = found
                    names = [one["name"] for one in found if one.get("type") == "EDS"]
                    # asked for no endpoints, istiod says nothing
                    request(ENDPOINTS if names else LISTENERS, names)
                elif response.type_url == ENDPOINTS:
                    told["endpoints"] = found
                    request(LISTENERS, [])
                else:
                    told["listeners"] = [one for one in found if one["name"] in _LISTENERS]
                    return told
        finally:
            requests.put(None)
            call.cancel()
    raise ConnectionError("istiod ended the stream")


if __name__ == "__main__":
    nodes = json.loads(sys.argv[2])
    json.dump({name: ask(sys.argv[1], node) for name, node in nodes.items()}, sys.stdout)
