"""What the proxy in front of a container port accepts: PeerAuthentication."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tlscheck.model import PeerAuthentication, Proxy, Workload, subset_of
from tlscheck.rows import Server


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """The policies of one workload, put together."""

    mode: Server
    rule: str | None
    ports: dict[int, tuple[Server, str]]

    def at(self, port: int) -> tuple[Server, str | None]:
        """Mode and rule of a container port."""
        return self.ports.get(port, (self.mode, self.rule))


class Policies:
    """Every PeerAuthentication, by scope."""

    def __init__(self, found: Iterable[PeerAuthentication], root: str) -> None:
        self.root = root
        self.wide: dict[str, list[PeerAuthentication]] = defaultdict(list)
        """Selector-less ones by namespace, the winner first; the root's is the mesh's (3.2)."""
        self.narrow: dict[str, list[PeerAuthentication]] = defaultdict(list)
        self.useless: list[PeerAuthentication] = []
        """With a selector in the root namespace: ignored everywhere (3.2)."""
        for policy in sorted(found, key=lambda policy: policy.meta.age):
            if not policy.selector:
                self.wide[policy.meta.namespace].append(policy)
            elif policy.meta.namespace == root:
                self.useless.append(policy)
            else:
                self.narrow[policy.meta.namespace].append(policy)
        self._composed: dict[Workload, Composed] = {}
        self._servers: dict[tuple[Workload, int], tuple[Server, str | None, bool]] = {}
        self._modes: dict[str, tuple[Server, str | None]] = {}
        self._sides: dict[tuple[Workload, int], int] = {}
        self._numbers: dict[tuple[object, ...], int] = {}

    def _wide(self, namespace: str) -> PeerAuthentication | None:
        return next(iter(self.wide.get(namespace, ())), None)

    def namespace_mode(self, namespace: str) -> tuple[Server, str | None]:
        """Mode of a namespace, workloads' own policies left out (3.4, 3.6)."""
        if (known := self._modes.get(namespace)) is None:
            said = [p for p in (self._wide(namespace), self._wide(self.root)) if p and p.mode]
            known = (Server(said[0].mode), said[0].meta.key) if said else (Server.PERMISSIVE, None)
            self._modes[namespace] = known
        return known

    def chosen(self, workload: Workload) -> PeerAuthentication | None:
        """The winning policy that selects the workload: the oldest, as a whole (3.3)."""
        for policy in self.narrow.get(workload.namespace, ()):
            if policy.selector and subset_of(policy.selector, workload.labels):
                return policy
        return None

    def composed(self, workload: Workload) -> Composed:
        """Put the policies of a workload together (3.4, 3.5)."""
        if known := self._composed.get(workload):
            return known
        mode, rule = self.namespace_mode(workload.namespace)
        ports: dict[int, tuple[Server, str]] = {}
        if own := self.chosen(workload):
            if own.mode:
                mode, rule = Server(own.mode), own.meta.key
            ports = {p: (Server(m), own.meta.key) for p, m in own.ports.items() if m}
        found = Composed(mode=mode, rule=rule, ports=ports)
        if workload.proxy is Proxy.AMBIENT:
            found = self._ambient(workload)
        self._composed[workload] = found
        return found

    def _ambient(self, workload: Workload) -> Composed:
        """Put together what ztunnel is told: "no peer identity => refuse" or nothing (10)."""
        # `selector: {}` of a mesh policy counts in its own namespace only
        mesh = next(
            (
                policy
                for policy in self.wide.get(self.root, ())
                if policy.selector is None or workload.namespace == self.root
            ),
            None,
        )
        namespace = self._wide(workload.namespace) if workload.namespace != self.root else None
        own = self.chosen(workload)
        strict, rule = False, None
        for policy in (mesh, namespace, own):
            if policy and policy.mode:
                strict, rule = policy.mode == "STRICT", policy.meta.key
        ports: dict[int, tuple[Server, str]] = {}
        if own and own.ports:
            modes = set(own.ports.values())
            freed = "PERMISSIVE" in modes or (own.mode == "STRICT" and "DISABLE" in modes)
            for port, mode in own.ports.items():
                if strict and freed and mode in ("PERMISSIVE", "DISABLE"):
                    ports[port] = Server.PERMISSIVE, own.meta.key
                elif not strict and mode == "STRICT":
                    ports[port] = Server.STRICT, own.meta.key
            if self.unenforced(workload):
                strict, rule, ports = False, own.meta.key, {}
        return Composed(mode=Server.STRICT if strict else Server.PERMISSIVE, rule=rule, ports=ports)

    def unenforced(self, workload: Workload) -> bool:
        """Whether ztunnel is sent to a policy that is never made (10): nothing is enforced."""
        mesh, namespace = self._wide(self.root), self._wide(workload.namespace)
        own = self.chosen(workload)
        return bool(
            own
            and not own.mode
            and "PERMISSIVE" in own.ports.values()
            and mesh
            and mesh.mode == "STRICT"
            and namespace
            and not namespace.mode
        )

    def server(self, workload: Workload, port: int) -> tuple[Server, str | None, bool]:
        """Mode and rule of a container port; last, whether the port is kept from the proxy."""
        key = workload, port
        if key not in self._servers:
            self._servers[key] = self._server(workload, port)
        return self._servers[key]

    def side(self, workload: Workload, port: int) -> int:
        """A number for all that matters of an endpoint: two that share it are answered alike."""
        key = workload, port
        if (known := self._sides.get(key)) is None:
            mode = self.composed(workload).at(port)[0]
            facts = (workload.proxy, workload.tag, workload.hbone, mode, self.server(*key))
            known = self._sides[key] = self._numbers.setdefault(facts, len(self._numbers))
        return known

    def _server(self, workload: Workload, port: int) -> tuple[Server, str | None, bool]:
        if workload.proxy in (Proxy.NONE, Proxy.GATEWAY, Proxy.WAYPOINT):
            return Server.NO_PROXY, None, False
        if workload.proxy is Proxy.SIDECAR and not workload.intercepts(port):
            return Server.NO_PROXY, None, True  # section 9
        mode, rule = self.composed(workload).at(port)
        if workload.proxy is Proxy.PROXYLESS and mode is Server.PERMISSIVE:
            # its library takes one or the other: the label decides (grpcgen/lds.go)
            mode = Server.STRICT if workload.tag == "istio" else Server.DISABLE
        return mode, rule, False
