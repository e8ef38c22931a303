"""The cluster's DNS server: names of Services and of the pods behind headless ones.

Nothing is asked of any other server: a name outside the cluster does not exist.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from lab.sandbox import DNS_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lab.node.api import Json

_TTL_S = 5
"""Seconds a client may remember an answer; CoreDNS in Kubernetes says the same."""

_DOMAIN = "cluster.local"


def records(services: Iterable[Json], slices: Iterable[Json]) -> dict[str, list[str]]:
    """Name (with no final dot) -> addresses, or one `CNAME target` for an external Service."""
    slices = list(slices)
    table: dict[str, list[str]] = {}
    for service in services:
        meta, spec = service["metadata"], service["spec"]
        name = f"{meta['name']}.{meta['namespace']}.svc.{_DOMAIN}"
        if spec.get("type") == "ExternalName":
            table[name] = [f"CNAME {spec['externalName'].rstrip('.')}."]
        elif spec.get("clusterIP") == "None":
            table[name] = []
            for endpoint in _endpoints(slices, meta["namespace"], meta["name"]):
                table[name] += endpoint["addresses"]
                if endpoint.get("hostname"):
                    table[f"{endpoint['hostname']}.{name}"] = list(endpoint["addresses"])
        else:
            table[name] = [a for a in spec.get("clusterIPs") or [] if ":" not in a]
    return table


def _endpoints(slices: Iterable[Json], namespace: str, service: str) -> list[Json]:
    """Ready endpoints of a Service; all of them if it publishes those that are not ready too."""
    return [
        endpoint
        for item in slices
        if item["metadata"]["namespace"] == namespace
        and item["metadata"].get("labels", {}).get("kubernetes.io/service-name") == service
        for endpoint in item.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready") is not False
    ]


def answer(query: bytes, table: Mapping[str, list[str]]) -> bytes | None:
    """The answer to one packet; None where it is not a question at all."""
    try:
        question = dns.message.from_wire(query)
        response = dns.message.make_response(question)
    except dns.exception.DNSException:
        return None
    response.flags |= dns.flags.AA | dns.flags.RA
    if len(question.question) != 1:
        response.set_rcode(dns.rcode.FORMERR)
        return response.to_wire(prefer_truncation=True)
    asked = question.question[0]
    found = table.get(asked.name.to_text(omit_final_dot=True).lower())
    if found is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif found and found[0].startswith("CNAME "):
        response.answer.append(dns.rrset.from_text(asked.name, _TTL_S, "IN", *found[0].split()))
    elif found and asked.rdtype == dns.rdatatype.A:
        response.answer.append(dns.rrset.from_text(asked.name, _TTL_S, "IN", "A", *found))
    return response.to_wire(prefer_truncation=True)


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = answer(data, self._server.table)
        if response is not None:
            self._transport.sendto(response, addr)


class Server:
    """Answers on the address that is in every pod's resolv.conf."""

    def __init__(self) -> None:
        self.table: Mapping[str, list[str]] = {}
        """What is known; replaced as a whole when Services or endpoints change."""

    async def serve(self) -> None:
        """Start answering; goes on in the background."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: _Protocol(self), local_addr=(DNS_ADDRESS, 53))
