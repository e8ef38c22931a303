"""What is derived from istiod's configuration, without istiod."""

from __future__ import annotations

from typing import Any

import pytest

from lab.truth import derive

MTLS = {"name": "virtualInbound", "port": None, "transport": "tls", "tls": True}
PLAIN = {"name": "virtualInbound", "port": None, "transport": "raw_buffer", "tls": False}
THROUGH = {"name": "virtualInbound", "port": None, "transport": "tls", "tls": False}
BLACKHOLE = {"name": derive.BLACKHOLE, "port": 15006, "transport": "", "tls": False}


def on(port: int, *chains: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**one, "port": port} for one in chains]


@pytest.mark.parametrize(
    ("chains", "mode"),
    [
        (on(80, MTLS), "STRICT"),
        (on(80, MTLS, PLAIN, THROUGH), "PERMISSIVE"),
        (on(80, PLAIN), "DISABLE"),
        ([MTLS], "STRICT"),
        ([MTLS, *on(80, PLAIN)], "DISABLE"),
        ([MTLS, *on(81, PLAIN)], "STRICT"),
        ([BLACKHOLE], "NONE"),
    ],
)
def test_a_servers_mode_is_read_from_its_filter_chains(
    chains: list[dict[str, Any]], mode: str
) -> None:
    assert derive.server({"inbound": [BLACKHOLE, *chains]}, 80) == mode


@pytest.mark.parametrize(
    ("address", "mode"), [("1", "ISTIO_MUTUAL"), ("2", "PLAINTEXT"), ("3", "NO_ENDPOINT")]
)
def test_auto_mtls_is_decided_by_the_endpoints_label(address: str, mode: str) -> None:
    cluster = {
        "mode": "PLAINTEXT",
        "eds": True,
        "matches": [
            {"labels": {"tlsMode": "istio"}, "mode": "ISTIO_MUTUAL"},
            {"labels": {}, "mode": "PLAINTEXT"},
        ],
        "endpoints": [
            {"address": "1", "port": 8080, "labels": {"tlsMode": "istio"}},
            {"address": "2", "port": 8080, "labels": {}},
        ],
    }
    config = {"clusters": {"c": cluster}}
    assert derive.client(config, "c", address) == mode
    assert derive.port(config, "c", "1") == 8080


@pytest.mark.parametrize(
    ("others", "mode"), [({"PassthroughCluster": {}}, "PLAINTEXT"), ({}, "BLOCKED")]
)
def test_a_host_that_istiod_does_not_send_is_passed_through(
    others: dict[str, Any], mode: str
) -> None:
    assert derive.client({"clusters": others}, "c", None) == mode
