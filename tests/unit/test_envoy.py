"""What is read from Envoy's own configuration."""

from __future__ import annotations

from typing import Any

import pytest

from tlscheck import envoy
from tlscheck.envoy import Config

Json = dict[str, Any]

_SOCKETS = "type.googleapis.com/envoy.extensions.transport_sockets"
TUNNEL: Json = {
    "typed_config": {"@type": f"{_SOCKETS}.internal_upstream.v3.InternalUpstreamTransport"}
}
RAW: Json = {"typed_config": {"@type": f"{_SOCKETS}.raw_buffer.v3.RawBuffer"}}


def tls(**common: Any) -> Json:
    kind = f"{_SOCKETS}.tls.v3.UpstreamTlsContext"
    return {"typed_config": {"@type": kind, "common_tls_context": common}}


OWN = tls(tls_certificate_sds_secret_configs=[{"name": "default"}])


def chain(transport: str = "", *, socket: bool = False, port: int | None = None) -> Json:
    match: Json = {"transport_protocol": transport} if transport else {}
    if port is not None:
        match["destination_port"] = port
    made: Json = {"name": "virtualInbound", "filter_chain_match": match}
    return {**made, "transport_socket": {"name": "tls"}} if socket else made


def listening(*chains: Json) -> Config:
    blackhole = {**chain(port=15006), "name": "virtualInbound-blackhole"}
    listener = {"name": "virtualInbound", "filter_chains": [blackhole, *chains]}
    return Config.of([], [], [{"name": "0.0.0.0_80", "filter_chains": [chain()]}, listener])


def mtls(port: int | None = None) -> Json:
    return chain("tls", socket=True, port=port)


def plain(port: int | None = None) -> Json:
    return chain("raw_buffer", port=port)


@pytest.mark.parametrize(
    ("chains", "mode"),
    [
        ([mtls(80)], "STRICT"),
        ([mtls(80), plain(80), chain("tls", port=80)], "PERMISSIVE"),
        ([plain(80)], "DISABLE"),
        ([mtls()], "STRICT"),
        ([mtls(), plain(80)], "DISABLE"),
        ([mtls(), plain(81)], "STRICT"),
        ([], "NONE"),
    ],
)
def test_a_servers_mode_is_read_from_its_filter_chains(chains: list[Json], mode: str) -> None:
    assert listening(*chains).server(80) == mode


def endpoint(address: Json, **labels: str) -> Json:
    metadata = {"filter_metadata": {"envoy.transport_socket_match": labels}} if labels else {}
    return {"endpoint": {"address": address}, "metadata": metadata}


def at(address: str, **labels: str) -> Json:
    return endpoint({"socket_address": {"address": address, "port_value": 8080}}, **labels)


def inside(identity: str, **labels: str) -> Json:
    return endpoint({"envoy_internal_address": {"endpoint_id": identity}}, **labels)


AUTO = {
    "name": "c",
    "type": "EDS",
    "transport_socket_matches": [
        {"match": {"tunnel": "http"}, "transport_socket": TUNNEL},
        {"match": {"tlsMode": "istio"}, "transport_socket": OWN},
        {"match": {}, "transport_socket": RAW},
    ],
}
ENDPOINTS = {
    "cluster_name": "c",
    "endpoints": [
        {"lb_endpoints": [at("1", tlsMode="istio"), at("2")]},
        {"lb_endpoints": [inside("3:9090", tunnel="http"), inside("[fd::4]:9090", tunnel="http")]},
    ],
}


@pytest.mark.parametrize(
    ("address", "mode", "port"),
    [
        ("1", "ISTIO_MUTUAL", 8080),
        ("2", "PLAINTEXT", 8080),
        ("3", "HBONE", 9090),
        ("fd::4", "HBONE", 9090),
        ("5", "NO_ENDPOINT", None),
    ],
)
def test_auto_mtls_is_decided_by_the_endpoints_label(
    address: str, mode: str, port: int | None
) -> None:
    config = Config.of([AUTO], [ENDPOINTS], [])
    assert (config.client("c", address), config.port("c", address)) == (mode, port)


def test_a_cluster_that_has_no_endpoints_yet_connects_nowhere() -> None:
    assert Config.of([AUTO], [], []).client("c", None) == "NO_ENDPOINT"


@pytest.mark.parametrize(
    ("socket", "mode"),
    [
        ({}, "PLAINTEXT"),
        (RAW, "PLAINTEXT"),
        (OWN, "ISTIO_MUTUAL"),
        (tls(tls_certificate_sds_secret_configs=[{"name": "file-cert:/etc/c~/etc/k"}]), "MUTUAL"),
        (tls(tls_certificates=[{}]), "MUTUAL"),
        (tls(), "SIMPLE"),
    ],
)
def test_what_leaves_is_told_by_the_transport_socket(socket: Json, mode: str) -> None:
    cluster = {"name": "c", "type": "ORIGINAL_DST", "transport_socket": socket}
    assert Config.of([cluster], [], []).client("c", "1") == mode


def test_addresses_that_a_proxy_saw_are_not_taken_for_the_clusters_endpoints() -> None:
    cluster = {"name": "c", "type": "ORIGINAL_DST", "transport_socket": OWN}
    assert Config.of([cluster], [ENDPOINTS], []).client("c", "9") == "ISTIO_MUTUAL"


@pytest.mark.parametrize(
    ("cluster", "mode"), [("PassthroughCluster", "PLAINTEXT"), ("BlackHoleCluster", "BLOCKED")]
)
def test_a_host_that_a_proxy_does_not_know_goes_where_the_last_filter_says(
    cluster: str, mode: str
) -> None:
    both = [{"name": "PassthroughCluster"}, {"name": "BlackHoleCluster"}]
    filters = [{"name": "tcp", "typed_config": {"cluster": cluster}}]
    outbound = {"name": "virtualOutbound", "filter_chains": [{"filters": filters}]}
    assert Config.of(both, [], [outbound]).client("c", None) == mode


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/apis/networking.istio.io/v1/namespaces/srv/destination-rule/web", "srv/web"),
        ("/apis/networking.istio.io/v1/namespaces/srv/virtual-service/web", None),
        (None, None),
    ],
)
def test_the_rule_of_a_cluster_is_the_one_that_istiod_names(
    path: str | None, rule: str | None
) -> None:
    istio = {"config": path} if path else {}
    cluster = {"name": "c", "metadata": {"filter_metadata": {"istio": istio}}}
    assert Config.of([cluster], [], []).rule("c") == rule


def test_a_dump_is_what_is_static_and_what_is_in_force() -> None:
    listener = {"name": "virtualInbound", "filter_chains": [mtls(80)]}
    old = {"name": "virtualInbound", "filter_chains": [plain(80)]}
    dump = {
        "configs": [
            {"static_clusters": [{"cluster": {"name": "other"}}]},
            {"dynamic_active_clusters": [{"cluster": AUTO}], "dynamic_warming_clusters": [{}]},
            {"dynamic_endpoint_configs": [{"endpoint_config": ENDPOINTS}]},
            {
                "dynamic_listeners": [
                    {"active_state": {"listener": listener}, "draining_state": {"listener": old}}
                ]
            },
        ]
    }
    config = Config.dumped(dump)
    assert (config.client("c", "1"), config.server(80)) == ("ISTIO_MUTUAL", "STRICT")
    assert config.client("other", None) == "PLAINTEXT"


@pytest.mark.parametrize(
    "junk", [{}, {"configs": None}, {"configs": [1, {"static_clusters": [2]}]}]
)
def test_a_dump_that_is_none_is_a_proxy_that_knows_nothing(junk: Json) -> None:
    assert Config.dumped(junk).server(80) == envoy.NONE
