"""Pod networks and Services: what a CNI plugin and kube-proxy do on a node."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING

from lab.cluster import POD_CIDR
from lab.sandbox import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lab.node.api import Json

_GATEWAY = "169.254.1.1"
"""Next hop of every pod: the node's end of its veth pair."""

_CHAIN = "LAB-SERVICES"


class AddressPool:
    """Pod addresses, each in use once; a released one is used again last."""

    def __init__(self) -> None:
        hosts = ipaddress.ip_network(POD_CIDR).hosts()
        self._fresh = (str(address) for address in hosts)
        self._released: list[str] = []

    def take(self) -> str:
        """An address nobody has.

        Raises:
            RuntimeError: all 32,766 are in use.
        """
        address = next(self._fresh, None)
        if address is None:
            if not self._released:
                raise RuntimeError(f"no free pod address in {POD_CIDR}")
            address = self._released.pop(0)
        return address

    def give_back(self, address: str) -> None:
        """Make an address free again."""
        self._released.append(address)


def netns_path(name: str) -> str:
    """Where `ip netns` keeps the namespace's file."""
    return f"/run/netns/{name}"


def add_pod(name: str, address: str) -> None:
    """Make a pod's network namespace, with exactly this address and a route to the node."""
    host_end = _host_end(name)
    run("ip", "netns", "add", name)
    run("ip", "link", "add", host_end, "type", "veth", "peer", "name", "eth0", "netns", name)
    run("ip", "address", "add", f"{_GATEWAY}/32", "dev", host_end)
    run("ip", "link", "set", host_end, "up")
    run("ip", "route", "replace", f"{address}/32", "dev", host_end)
    inside = "\n".join(
        (
            "link set lo up",
            f"address add {address}/32 dev eth0",
            "link set eth0 up",
            f"route add {_GATEWAY} dev eth0",
            f"route add default via {_GATEWAY} dev eth0",
        )
    )
    run("ip", "-netns", name, "-batch", "-", stdin=inside)


def remove_pod(name: str) -> None:
    """Take a pod's network away; nothing happens where there is none."""
    if name in run("ip", "netns", "list").split():
        run("ip", "netns", "delete", name)


def _host_end(name: str) -> str:
    """The node's interface of a pod: at most 15 characters, so a digest of the name."""
    return "v" + hashlib.sha256(name.encode()).hexdigest()[:12]


def apply_services(services: Iterable[Json], slices: Iterable[Json]) -> None:
    """Point every Service address at its ready endpoints, chosen at random per connection."""
    run("iptables-restore", "--noflush", "--wait", stdin=service_rules(services, slices))


def prepare_services() -> None:
    """Hook the chain of Service rules into the node's traffic, once."""
    run("iptables", "-t", "nat", "-N", _CHAIN)
    for chain in ("PREROUTING", "OUTPUT"):
        run("iptables", "-t", "nat", "-A", chain, "-j", _CHAIN)


def service_rules(services: Iterable[Json], slices: Iterable[Json]) -> str:
    """Input of iptables-restore that replaces the chain of Service rules in one step."""
    ready = _ready_endpoints(slices)
    lines = ["*nat", f":{_CHAIN} - [0:0]"]
    for service in services:
        meta, spec = service["metadata"], service["spec"]
        for address in spec.get("clusterIPs") or []:
            if address == "None" or ":" in address:
                continue
            for port in spec.get("ports") or []:
                protocol = port.get("protocol", "TCP").lower()
                targets = ready.get((meta["namespace"], meta["name"], port.get("name") or ""), [])
                match = f"-A {_CHAIN} -d {address}/32 -p {protocol} --dport {port['port']}"
                for index, target in enumerate(targets):
                    left = len(targets) - index
                    chance = f" -m statistic --mode random --probability {1 / left:.6f}"
                    pick = chance if left > 1 else ""
                    lines.append(f"{match}{pick} -j DNAT --to-destination {target}")
    return "\n".join([*lines, "COMMIT", ""])


def _ready_endpoints(slices: Iterable[Json]) -> Mapping[tuple[str, str, str], list[str]]:
    """(namespace, service, port name) -> address:port of every endpoint that is ready."""
    table: dict[tuple[str, str, str], list[str]] = {}
    for item in slices:
        if item.get("addressType") != "IPv4":
            continue
        meta = item["metadata"]
        service = (meta.get("labels") or {}).get("kubernetes.io/service-name", "")
        addresses = [
            address
            for endpoint in item.get("endpoints") or []
            if (endpoint.get("conditions") or {}).get("ready") is not False
            for address in endpoint["addresses"]
        ]
        for port in item.get("ports") or []:
            key = (meta["namespace"], service, port.get("name") or "")
            table.setdefault(key, []).extend(f"{address}:{port['port']}" for address in addresses)
    return table
