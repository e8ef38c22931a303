"""Rows of `tlscheck` beside istiod's own configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.truth.mesh import has_sidecar, node
from tlscheck import MeshConfig, evaluate
from tlscheck.envoy import Config, outbound

if TYPE_CHECKING:
    from lab.truth.batch import Batch, Part
    from lab.truth.mesh import Istiod, Ports
    from tlscheck import Row

_RESOURCES = ("clusters", "endpoints", "listeners")
_INTERCEPTION = ("traffic.sidecar.istio.io/", "sidecar.istio.io/interceptionMode")
"""Annotations of this kind act in iptables: istiod's configuration does not show them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One row, each half as `tlscheck` says and as istiod says; None where a half has no proxy."""

    case: str
    row: Row
    client: str | None
    server: str | None
    rule: str | None
    """The DestinationRule that istiod names, where there is a client."""
    merged: frozenset[str]
    """The row's rule and those it may be merged with: istiod names the oldest of them."""

    @property
    def agrees(self) -> bool:
        """Whether no half differs."""
        return (
            self.client in {None, str(self.row.client)}
            and self.server in {None, str(self.row.server)}
            and (self.client is None or self.rule in (self.merged or {None}))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What the lab says of a batch."""

    sent: dict[str, Config]
    """What istiod would have each proxy do, by `namespace/pod`."""
    addresses: dict[str, str]
    """By `namespace/pod`."""
    ports: Ports


def compare(istiod: Istiod, batch: Batch) -> list[Compared]:
    """Load cases, ask istiod, and take the cases away again.

    Raises:
        LabError: the API server refused an object, or istiod did not answer.
    """
    objects = batch.objects
    pods = {
        f"{one['metadata']['namespace']}/{one['metadata']['name']}": one
        for one in objects
        if one["kind"] == "Pod"
    }
    istiod.configure(batch.mesh)
    try:
        addresses = istiod.load(objects)
        nodes = {name: node(pod, addresses[name]) for name, pod in pods.items() if has_sidecar(pod)}
        sent = {
            name: Config.of(*(told.get(kind, []) for kind in _RESOURCES))
            for name, told in istiod.ask(nodes).items()
        }
        seen = Seen(sent=sent, addresses=addresses, ports=istiod.ports())
    finally:
        istiod.unload(objects, batch.root)
    plain = {name for name, pod in pods.items() if _excluded(pod)}
    found = []
    for number, part in enumerate(batch.parts):
        rows = evaluate(part.case["objects"], MeshConfig.parse(batch.mesh)).rows
        for row in rows:
            both = {row.client_name, row.server_name}
            # connections within the root namespace are the same for every case
            if number and all(name.startswith(f"{batch.root}/") for name in both):
                continue
            one = judge(part, row, seen)
            if (one.client or one.server) and not plain & {part.names.pod(name) for name in both}:
                found.append(one)
    return found


def judge(part: Part, row: Row, seen: Seen) -> Compared:
    """Derive both halves of a row from what istiod sent to each proxy."""
    client = server = rule = None
    names = part.names
    host, caller, callee = (
        names.host(row.host),
        names.pod(row.client_name),
        names.pod(row.server_name),
    )
    cluster = outbound(host, row.port, row.subset)
    kind, _, external = row.server_name.partition(":")
    outside = {"ep": external, "host": names.host(external)}
    address = seen.addresses.get(callee, outside.get(kind))
    if caller in seen.sent:
        client = seen.sent[caller].client(cluster, address)
        rule = part.original(seen.sent[caller].rule(cluster))
    if callee in seen.sent:
        target = _target(part.case["objects"], row, seen, host, callee)
        if target is not None:
            server = seen.sent[callee].server(target)
    return Compared(
        case=part.case["id"],
        row=row,
        client=client,
        server=server,
        rule=rule,
        merged=_merged(part.case["objects"], row.client_rule),
    )


def differences(found: list[Compared]) -> list[str]:
    """A line for each row that differs."""
    return [
        f"{one.case}  {one.row.client_name} -> {one.row.server_name}  {one.row.host}:{one.row.port}"
        f" {one.row.subset or '-'}  client {one.row.client} istiod {one.client or '-'}"
        f"  server {one.row.server} istiod {one.server or '-'}"
        f"  rule {one.row.client_rule or '-'} istiod {one.rule or '-'}"
        for one in found
        if not one.agrees
    ]


def total(found: list[Compared]) -> str:
    """The sum."""
    differ = sum(not one.agrees for one in found)
    return f"compared {len(found)} rows: {len(found) - differ} agree, {differ} differ"


def _excluded(pod: dict[str, Any]) -> bool:
    return any(key.startswith(_INTERCEPTION) for key in pod["metadata"].get("annotations", {}))


def _merged(objects: list[dict[str, Any]], rule: str | None) -> frozenset[str]:
    """The DestinationRules of the same namespace and host."""
    where = {}
    for one in objects:
        if one["kind"] == "DestinationRule":
            namespace, host = one["metadata"]["namespace"], one["spec"]["host"]
            full = host if "." in host or host == "*" else f"{host}.{namespace}.svc.cluster.local"
            where[f"{namespace}/{one['metadata']['name']}"] = namespace, full
    return frozenset(name for name, at in where.items() if at == where.get(rule or ""))


def _target(
    objects: list[dict[str, Any]], row: Row, seen: Seen, host: str, callee: str
) -> int | None:
    """The container port behind a row, as the API server's endpoints have it."""
    pod = callee.partition("/")[2]
    name, _, rest = host.partition(".")
    for one in objects:
        meta = one["metadata"]
        if one["kind"] == "ServiceEntry" and row.host in one["spec"]["hosts"]:
            return next(
                (
                    port.get("targetPort", port["number"])
                    for port in one["spec"]["ports"]
                    if port["number"] == row.port
                ),
                None,
            )
        if one["kind"] == "Service" and row.host.startswith(f"{meta['name']}.{meta['namespace']}."):
            for port in one["spec"]["ports"]:
                if port["port"] == row.port:
                    return seen.ports.get((rest.split(".")[0], name, port["name"], pod))
    return None
