"""The objects of a mesh, indexed once: who there is, and where service ports lead."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tlscheck.client import Rules, Scopes
from tlscheck.documents import items, mapping
from tlscheck.model import (
    DestinationRule,
    Labels,
    MeshConfig,
    Meta,
    PeerAuthentication,
    Port,
    Proxy,
    Reader,
    Service,
    Sidecar,
    Workload,
    labels,
    number,
    subset_of,
    text,
)
from tlscheck.rows import Warning
from tlscheck.server import Policies

TEMPLATES = {
    *("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController"),
    *("Job", "CronJob", "Rollout"),
}
GROUPS = {
    "PeerAuthentication": "security.istio.io/",
    **dict.fromkeys(
        ("DestinationRule", "ServiceEntry", "WorkloadEntry", "Sidecar", "VirtualService"),
        "networking.istio.io/",
    ),
    **dict.fromkeys(("Pod", "Service", "Namespace", "Endpoints", "ReplicationController"), "v1"),
    "EndpointSlice": "discovery.k8s.io/",
    "EnvoyFilter": "networking.istio.io/",
}
"""API group of the kinds that are read; others may share a kind's name."""
_CLUSTER_WIDE = {"Namespace"}
_DIGEST_NODES = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where a service port leads."""

    workload: Workload
    port: int
    """Container port."""


class World:
    """Every object that matters, indexed once."""

    def __init__(self, mesh: MeshConfig) -> None:
        self.mesh = mesh
        self.ignored: Counter[str] = Counter()
        """Objects of no interest here, by kind."""
        self.problems: list[Warning] = []
        """What could not be read."""
        self.namespaces: dict[str, Labels] = {}
        self.peer_authentications: list[PeerAuthentication] = []
        self.destination_rules: list[DestinationRule] = []
        self.sidecars: list[Sidecar] = []
        self.envoy_filters: list[Meta] = []
        self.policies: Policies
        self.rules: Rules
        self.scopes: Scopes

    @classmethod
    def parse(cls, objects: Iterable[Mapping[str, Any]], mesh: MeshConfig) -> World:
        """Index the objects; their order does not matter, and no object makes it raise."""
        world, reader = cls(mesh), Reader(mesh)
        found = world._by_kind(objects, reader)
        world.namespaces = {
            text(mapping(raw.get("metadata")).get("name")): labels(
                mapping(raw.get("metadata")).get("labels")
            )
            for raw in found["Namespace"]
        }
        world.peer_authentications = [*map(reader.peer_authentication, found["PeerAuthentication"])]
        world.destination_rules = [*map(reader.destination_rule, found["DestinationRule"])]
        world.sidecars = [*map(reader.sidecar, found["Sidecar"])]
        world.envoy_filters = [*map(reader.meta, found["EnvoyFilter"])]
        world.policies = Policies(world.peer_authentications, mesh.root_namespace)
        world.rules = Rules(world.destination_rules, mesh)
        routes = map(reader.virtual_service, found["VirtualService"])
        world.scopes = Scopes(world.sidecars, routes, mesh)
        world._read_workloads(found, reader)
        world._read_services(found, reader)
        for subject, problem in reader.problems:
            world.problems.append(Warning(code="INVALID_OBJECT", subject=subject, text=problem))
        return world

    def _by_kind(
        self, objects: Iterable[object], reader: Reader
    ) -> dict[str, list[Mapping[Any, Any]]]:
        """Sort objects by kind and name; Lists are opened, each once."""
        found: dict[str, dict[str, Mapping[Any, Any]]] = defaultdict(dict)
        opened: dict[int, object] = {}
        differing: set[str] = set()
        queue: list[object] = list(objects)
        while queue:
            raw = queue.pop()
            given = mapping(raw)
            kind, api = text(given.get("kind")), text(given.get("apiVersion"))
            if kind.endswith("List") and isinstance(given.get("items"), list):
                if id(raw) not in opened:
                    opened[id(raw)] = raw
                    queue += [_of_list(kind, api, item) for item in given["items"]]
                continue
            group = GROUPS.get(kind, api if kind in TEMPLATES else None)
            if group is None or (api and not api.startswith(group)):
                self.ignored[kind or "(no kind)"] += 1
                continue
            meta = reader.meta(given)
            if meta.name == "?":
                problem = "has no name: ignored"
                self.problems.append(
                    Warning(code="INVALID_OBJECT", subject=meta.subject, text=problem)
                )
                continue
            key = meta.name if kind in _CLUSTER_WIDE else meta.key
            other = found[kind].get(key)
            if other is not None and other is not raw:
                mine, theirs = _digest(given), _digest(other)
                if mine != theirs:
                    differing.add(meta.subject)
                if theirs >= mine:
                    continue
            found[kind][key] = given
        problem = "given more than once and differently: only one of them is used"
        for subject in differing:
            self.problems.append(Warning(code="DUPLICATE_OBJECT", subject=subject, text=problem))
        return defaultdict(list, {k: [v[n] for n in sorted(v)] for k, v in found.items()})

    def _read_workloads(self, found: Mapping[str, list[Mapping[Any, Any]]], reader: Reader) -> None:
        self.workloads: list[Workload] = []
        """Pods, and templates that have no pods yet: they are clients and servers."""
        self.by_address: dict[str, Workload] = {}
        of_namespace: dict[str, list[Workload]] = defaultdict(list)
        for raw in found["Pod"]:
            if mapping(raw.get("status")).get("phase") in ("Succeeded", "Failed"):
                continue
            pod = reader.pod(raw)
            self.workloads.append(pod)
            of_namespace[pod.namespace].append(pod)
            for address in pod.addresses:
                self.by_address.setdefault(address, pod)
        taken = {pod.name for pod in self.workloads}
        made: dict[str, Workload] = {}
        for kind in sorted(TEMPLATES):
            for raw in found[kind]:
                template = self._template(raw, reader, of_namespace)
                if template:
                    made.setdefault(template.name, template)
        self.workloads += [w for name, w in made.items() if name not in taken]
        self.workloads.sort(key=lambda workload: (workload.name, workload.meta.kind))
        self.machines = [*map(reader.workload_entry, found["WorkloadEntry"])]
        self.by_name: dict[str, Workload] = {}
        self._by_label: dict[tuple[str, str, str], list[Workload]] = defaultdict(list)
        for workload in (*self.workloads, *self.machines):
            self.by_name.setdefault(workload.name, workload)
            for key, value in workload.labels.items():
                self._by_label[workload.namespace, key, value].append(workload)

    def _template(
        self, raw: Mapping[Any, Any], reader: Reader, pods: Mapping[str, list[Workload]]
    ) -> Workload | None:
        meta, spec = reader.meta(raw), mapping(raw.get("spec"))
        owners = items(mapping(raw.get("metadata")).get("ownerReferences"))
        if spec.get("replicas") == 0 or any(
            text(mapping(o).get("kind")) in TEMPLATES for o in owners
        ):
            return None
        made = reader.template(raw, self.namespaces.get(meta.namespace, {}))
        selector = mapping(spec.get("selector"))
        wanted = labels(
            selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
        )
        wanted = wanted or {k: v for k, v in made.labels.items() if "istio.io/" not in k}
        if wanted and any(subset_of(wanted, pod.labels) for pod in pods.get(meta.namespace, ())):
            return None
        return made

    def _read_services(self, found: Mapping[str, list[Mapping[Any, Any]]], reader: Reader) -> None:
        self.by_host: dict[str, list[Service]] = {}
        self._slices: dict[tuple[str, str], list[Mapping[Any, Any]]] = defaultdict(list)
        self._endpoints: dict[tuple[Service, int], tuple[Endpoint, ...]] = {}
        self.outcomes: dict[Any, Any] = {}
        """What has been judged already."""
        services = [*map(reader.service, found["Service"])]
        for raw in found["ServiceEntry"]:
            services += reader.service_entry(raw)
        for service in sorted(services, key=lambda s: (s.host, s.meta.kind, s.meta.age)):
            self.by_host.setdefault(service.host, []).append(service)
        for raw in (*found["EndpointSlice"], *found["Endpoints"]):
            meta = reader.meta(raw)
            own = labels(mapping(raw.get("metadata")).get("labels"))
            name = own.get("kubernetes.io/service-name") or meta.name
            self._slices[meta.namespace, name].append(raw)
        self.contested = {
            namespace
            for sharing in self.by_host.values()
            if len(sharing) > 1
            for service in sharing
            for namespace in (service.namespace, *service.export_to)
        }
        """Namespaces whose clients may find another service under a shared host name."""

    def special_namespaces(self) -> set[str]:
        """Namespaces whose clients may be answered otherwise than other clients."""
        special = {self.mesh.root_namespace, *self.contested}
        for service in self.every_service():
            if "*" not in service.export_to:
                special |= {service.namespace, *service.export_to}
        for rule in self.destination_rules:
            own = f".{rule.meta.namespace}.svc.{self.mesh.domain}"
            private = "." in self.mesh.destination_rule_export_to
            if rule.export_to or private or "*" in rule.host or not rule.host.endswith(own):
                special |= {rule.meta.namespace, *rule.export_to}
        return special | {sidecar.meta.namespace for sidecar in self.sidecars}

    def restricted_hosts(self) -> set[str]:
        """Hosts that are not the same to all namespaces."""
        found = {host for host, sharing in self.by_host.items() if len(sharing) > 1}
        for service in self.every_service():
            at_service = self.rules.at_service(self.aliased(service))
            if (
                "*" not in self.aliased(service).export_to
                or any(
                    rule.export_to and "*" not in rule.export_to
                    for entries in at_service
                    for rule in entries
                )
                or (service.target and self.aliased(service) is not service)
            ):
                found.add(service.host)
        return found

    def clients(self) -> list[str]:
        """Names (`namespace/pod`) of every workload that can be a client."""
        return [workload.name for workload in self.workloads]

    def services(self) -> list[str]:
        """Full host names of every service."""
        return sorted(self.by_host)

    def every_service(self) -> Iterable[Service]:
        """Every service, those that share a host name included."""
        return (service for found in self.by_host.values() for service in found)

    def selecting(self, namespace: str, selector: Mapping[str, str]) -> list[Workload]:
        """Workloads of a namespace that have all of some labels."""
        pools = [self._by_label.get((namespace, key, value), []) for key, value in selector.items()]
        found = min(pools, key=len, default=[])
        if len(pools) == 1:
            return found
        return [workload for workload in found if subset_of(selector, workload.labels)]

    def aliased(self, service: Service) -> Service:
        """Return what an ExternalName service stands for, where that is known (section 7)."""
        seen = {service}
        while service.target and service.target in self.by_host:
            service = self.by_host[service.target][0]
            if service in seen:
                break
            seen.add(service)
        return service

    def endpoints(self, service: Service, port: Port) -> tuple[Endpoint, ...]:
        """Where a port of a service leads."""
        key = service, port.number
        if key not in self._endpoints:
            found = [
                Endpoint(workload=w, port=at)
                for w in self.selecting(service.namespace, service.selector or {})
                if (at := _container_port(service, w, port))
            ]
            for machine, ports in service.inline:
                target = port.target if isinstance(port.target, int) else port.number
                found.append(Endpoint(workload=machine, port=ports.get(port.name) or target))
            if not found and service.meta.kind == "Service":
                found = self._from_slices(service, port)
            found.sort(key=lambda endpoint: (endpoint.workload.name, endpoint.port))
            self._endpoints[key] = tuple(found)
        return self._endpoints[key]

    def _from_slices(self, service: Service, port: Port) -> list[Endpoint]:
        found: dict[tuple[str, int], Endpoint] = {}
        for raw in self._slices.get((service.namespace, service.meta.name), ()):
            for group in map(mapping, (raw, *items(raw.get("subsets")))):
                at = next(
                    (
                        number(mapping(p).get("port"))
                        for p in items(group.get("ports"))
                        if text(mapping(p).get("name")) == port.name
                    ),
                    0,
                )
                for given in map(mapping, items(group.get("endpoints", group.get("addresses")))):
                    target = mapping(given.get("targetRef"))
                    known = self.by_name.get(f"{service.namespace}/{text(target.get('name'))}")
                    for address in strings_of(given):
                        workload = known or self.by_address.get(address) or _bare(service, address)
                        if at:
                            found[workload.name, at] = Endpoint(workload=workload, port=at)
        return list(found.values())


def strings_of(endpoint: Mapping[Any, Any]) -> list[str]:
    """Return the addresses of an entry of an EndpointSlice, or of Endpoints."""
    several = [text(address) for address in items(endpoint.get("addresses"))]
    return [address for address in (*several, text(endpoint.get("ip"))) if address]


def _bare(service: Service, address: str) -> Workload:
    meta = Meta(kind="Endpoint", namespace=service.namespace, name=address)
    return Workload(
        meta=meta, name=f"ep:{address}", labels={}, proxy=Proxy.NONE, addresses=(address,)
    )


def _container_port(service: Service, workload: Workload, port: Port) -> int:
    machine = workload.meta.kind == "WorkloadEntry"
    if machine and workload.container_ports.get(port.name):
        return workload.container_ports[port.name]
    if isinstance(port.target, int):
        return port.target
    found = workload.container_ports.get(port.target, 0)
    return found if service.meta.kind == "Service" else found or port.number


def _of_list(kind: str, api: str, item: object) -> object:
    """Items of a PodList need not say that they are Pods."""
    if isinstance(item, Mapping) and not item.get("kind") and kind != "List":
        return {**item, "kind": kind.removesuffix("List"), "apiVersion": api}
    return item


def _digest(value: object) -> str:
    """Tell two objects of one name apart, whatever their order; cycles and bombs are cut."""
    parts: list[str] = []

    def walk(value: object, depth: int) -> None:
        if len(parts) > _DIGEST_NODES or depth == 0:
            return
        if isinstance(value, Mapping):
            for key in sorted(value, key=str):
                parts.append(str(key))
                walk(value[key], depth - 1)
        elif isinstance(value, list):
            parts.append("[")
            for item in value:
                walk(item, depth - 1)
        else:
            parts.append(repr(value))

    walk(value, 40)
    return "\0".join(parts)
