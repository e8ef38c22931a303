"""Rows of `tlscheck` beside istiod's own configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.truth import derive
from lab.truth.mesh import has_sidecar, node
from tlscheck import MeshConfig, evaluate

if TYPE_CHECKING:
    from lab.truth.mesh import Istiod
    from tlscheck import Row

_INTERCEPTION = ("traffic.sidecar.istio.io/", "sidecar.istio.io/interceptionMode")
"""Annotations of this kind act in iptables: istiod's configuration does not show them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One row, each half as `tlscheck` says and as istiod says; None where a half has no proxy."""

    case: str
    row: Row
    client: str | None
    server: str | None

    @property
    def agrees(self) -> bool:
        """Whether no half differs."""
        return self.client in {None, str(self.row.client)} and self.server in {
            None,
            str(self.row.server),
        }


def compare(istiod: Istiod, case: dict[str, Any]) -> list[Compared]:
    """Load a case, ask istiod, and take the case away again.

    Raises:
        LabError: the API server refused an object, or istiod did not answer.
    """
    objects = case["objects"]
    pods = {
        f"{one['metadata']['namespace']}/{one['metadata']['name']}": one
        for one in objects
        if one["kind"] == "Pod"
    }
    istiod.configure(case["mesh"])
    try:
        addresses = istiod.load(objects)
        nodes = {name: node(pod, addresses[name]) for name, pod in pods.items() if has_sidecar(pod)}
        sent = istiod.ask(nodes)
    finally:
        istiod.unload(objects)
    rows = evaluate(objects, MeshConfig.parse(case["mesh"])).rows
    found = [judge(case["id"], row, sent, addresses, _targets(objects)) for row in rows]
    plain = {name for name, pod in pods.items() if _excluded(pod)}
    return [
        one
        for one in found
        if (one.client or one.server) and not plain & {one.row.client_name, one.row.server_name}
    ]


def judge(
    case: str,
    row: Row,
    sent: dict[str, Any],
    addresses: dict[str, str],
    targets: dict[tuple[str, int], int],
) -> Compared:
    """Derive both halves of a row from what istiod sent to each proxy (`namespace/pod`)."""
    client = server = None
    cluster = f"outbound|{row.port}|{row.subset or ''}|{row.host}"
    kind, _, external = row.server_name.partition(":")
    address = addresses.get(row.server_name, external if kind in {"ep", "host"} else None)
    if row.client_name in sent:
        client = derive.client(sent[row.client_name], cluster, address)
    if row.server_name in sent:
        config = sent.get(row.client_name, {"clusters": {}})
        target = derive.port(config, cluster, address) or targets.get((row.host, row.port))
        if target is not None:
            server = derive.server(sent[row.server_name], target)
    return Compared(case=case, row=row, client=client, server=server)


def table(found: list[Compared]) -> list[str]:
    """Lines to print: what differs, and the sum."""
    lines = [
        f"{one.case}  {one.row.client_name} -> {one.row.server_name}  {one.row.host}:{one.row.port}"
        f" {one.row.subset or '-'}  client {one.row.client} istiod {one.client or '-'}"
        f"  server {one.row.server} istiod {one.server or '-'}"
        for one in found
        if not one.agrees
    ]
    agree = len(found) - len(lines)
    return [*lines, f"compared {len(found)} rows: {agree} agree, {len(lines)} differ"]


def _excluded(pod: dict[str, Any]) -> bool:
    return any(key.startswith(_INTERCEPTION) for key in pod["metadata"].get("annotations", {}))


def _targets(objects: list[dict[str, Any]]) -> dict[tuple[str, int], int]:
    """Numeric container ports of the Services: host and port -> container port."""
    found = {}
    for one in objects:
        if one["kind"] == "Service":
            meta = one["metadata"]
            host = f"{meta['name']}.{meta['namespace']}.svc.cluster.local"
            for port in one["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if isinstance(target, int):
                    found[host, port["port"]] = target
    return found
