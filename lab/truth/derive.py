"""CLIENT and SERVER, from the configuration that istiod sends."""

from __future__ import annotations

from typing import Any

BLACKHOLE = "virtualInbound-blackhole"


def client(config: dict[str, Any], name: str, address: str | None) -> str:
    """What leaves a client's proxy through a cluster for an endpoint; None = any address."""
    cluster = config["clusters"].get(name)
    if cluster is None:
        return "BLOCKED" if "PassthroughCluster" not in config["clusters"] else "PLAINTEXT"
    labels: dict[str, str] = {}
    if cluster["endpoints"] and address is not None:
        found = [one for one in cluster["endpoints"] if one["address"] == address]
        if not found:
            return "NO_ENDPOINT"
        labels = found[0]["labels"]
    elif cluster["eds"]:
        return "NO_ENDPOINT"
    for match in cluster["matches"]:
        if match["labels"].items() <= labels.items():
            return str(match["mode"])
    return str(cluster["mode"])


def port(config: dict[str, Any], name: str, address: str | None) -> int | None:
    """The container port behind a cluster; None where istiod names none."""
    endpoints = config["clusters"].get(name, {}).get("endpoints", [])
    return next((int(one["port"]) for one in endpoints if one["address"] == address), None)


def server(config: dict[str, Any], number: int) -> str:
    """What a pod's proxy accepts on a container port."""
    usable = [one for one in config["inbound"] if one["name"] != BLACKHOLE]
    own = [one for one in usable if one["port"] == number]
    chains = own or [one for one in usable if one["port"] is None]
    secure = any(one["tls"] for one in chains)
    plain = any(not one["tls"] and one["transport"] != "tls" for one in chains)
    if secure:
        return "PERMISSIVE" if plain else "STRICT"
    return "DISABLE" if plain else "NONE"
