"""Rows, summary and warnings of a set of objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from tlscheck.client import Cluster, Decision, Rule, decide, exported, to_endpoint
from tlscheck.join import join
from tlscheck.model import (
    MeshConfig,
    Port,
    Protocol,
    Proxy,
    Service,
    Subset,
    Workload,
    host_matches,
)
from tlscheck.rows import Client, Effective, Row, Server, Warning
from tlscheck.warnings import find_warnings
from tlscheck.why import sentence
from tlscheck.world import Endpoint, World


class Outcome(NamedTuple):
    """A row without its client."""

    workload: Workload | None
    fields: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """All rows of one client class to one service port and subset, folded."""

    classes: tuple[tuple[str, ...], ...]
    """Names of the clients, class by class; the tuples are shared between lines."""
    host: str
    port: int
    subset: str | None
    client: tuple[Client, ...]
    server: tuple[Server, ...]
    effective: tuple[Effective, ...]
    """Sorted, distinct; several = MIXED."""
    rows: int
    """How many connections this line stands for, a client's calls to itself included."""
    example: Row
    """The worst row: a failing one when there is one."""
    answers: tuple[Mapping[str, Any], ...]
    """Endpoint by endpoint: a row's fields without its client."""

    @property
    def clients(self) -> tuple[str, ...]:
        """Members of the client class, `namespace/pod`."""
        return tuple(sorted(name for names in self.classes for name in names))

    @property
    def first_two(self) -> tuple[str, ...]:
        """The first of its clients; much cheaper than all of them where thousands are."""
        return tuple(sorted(name for names in self.classes for name in names[:2])[:2])

    @property
    def verdict(self) -> str:
        """One effective value, or `MIXED`."""
        return self.effective[0] if len(self.effective) == 1 else "MIXED"

    @property
    def ok(self) -> bool:
        """Whether no connection fails."""
        return Effective.CONFLICT not in self.effective


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything about a set of objects."""

    rows: tuple[Row, ...]
    warnings: tuple[Warning, ...]
    ignored: Mapping[str, int]


class Group(NamedTuple):
    """What decides a cluster's connections: calls that share it share their outcomes."""

    host: str
    service: Service
    port: Port
    subset: Subset | None
    fixed: Decision | None
    proxy: Proxy | None
    rule: Rule | None
    own_certificates: bool = False


def _fixed(client: Client, reason: str) -> Decision:
    return Decision(client=client, reason=reason)


NO_PROXY = _fixed(Client.NO_PROXY, "NO_CLIENT_PROXY")
EXCLUDED = _fixed(Client.NO_PROXY, "EXCLUDED_OUTBOUND")
HIDDEN = _fixed(Client.PLAINTEXT, "NOT_VISIBLE")
BLOCKED = _fixed(Client.BLOCKED, "BLOCKED")
ZTUNNEL = Decision(client=Client.PLAINTEXT, reason="ZTUNNEL_RAW", hbone=True)


def _services(world: World, client: Workload, host: str) -> Iterator[Service]:
    """Yield the service that a client finds under a host name (several may share it)."""
    found = world.by_host.get(host, [])
    if len(found) > 1:
        near = client.namespace
        seen = [s for s in found if exported(s.export_to, s.namespace, near)] or found
        seen.sort(key=lambda s: (s.namespace != near, s.meta.kind != "Service", s.meta.age))
        found = seen[:1]
    yield from found


def _groups(world: World, client: Workload, host: str, port: int | None) -> Iterator[Group]:
    """Yield what decides the client's calls to a host: one per service port and subset."""
    for written in _services(world, client, host):
        service = world.aliased(written)
        for at in service.ports:
            if at.protocol is Protocol.UDP or (port is not None and at.number != port):
                continue
            group = partial(Group, host, service, at)
            fixed = _situation(world, client, service, at)
            if fixed is not None:
                yield group(None, fixed, None, None)
                continue
            rule = world.rules.pick(
                client.namespace,
                client.labels,
                service,
                any_pod=client.proxy is Proxy.WAYPOINT,
            )
            own = client.own_certificates
            yield group(None, None, client.proxy, rule, own)
            for subset in rule.subsets.values() if rule else ():
                yield group(subset, None, client.proxy, rule, own)


def _situation(world: World, client: Workload, service: Service, port: Port) -> Decision | None:
    """Return what happens where no cluster decides (sections 2, 5 and 10)."""
    if client.proxy is Proxy.NONE:
        return NO_PROXY
    if client.proxy is Proxy.AMBIENT:
        return ZTUNNEL
    if client.proxy is Proxy.SIDECAR and not client.captures_all:
        address = next(iter(service.addresses), "")
        if not client.captures(port.number, address):
            return EXCLUDED
    if client.proxy is Proxy.WAYPOINT:
        return None
    scope = world.scopes.of(client)
    if scope.sees(service, port.number):
        return None
    # a gateway passes nothing on that it has no cluster for
    return HIDDEN if scope.allow_any and client.proxy is not Proxy.GATEWAY else BLOCKED


def _outcomes(world: World, group: Group) -> tuple[Outcome, ...]:
    """Judge the endpoints of a group, once."""
    known: dict[Group, tuple[Outcome, ...]] = world.outcomes
    if group not in known:
        service, port, subset, fixed = group.service, group.port, group.subset, group.fixed
        every = world.endpoints(service, port)
        decision, proxy = fixed, group.proxy or Proxy.AMBIENT
        if decision is None:
            cluster = Cluster(
                proxy=proxy,
                rule=group.rule,
                service=service,
                port=port.number,
                subset=subset,
                tags=tuple(endpoint.workload.tag for endpoint in every),
                own_certificates=group.own_certificates,
            )
            decision = decide(world.mesh, world.policies, cluster)
        if subset is not None:
            every = tuple(
                e
                for e in every
                if all(e.workload.labels.get(k) == v for k, v in subset.labels.items())
            )
        known[group] = _judged(world, group, decision, proxy, every) or (
            (_without_endpoints(group, decision),) if subset is None else ()
        )
    return known[group]


def _judged(
    world: World, group: Group, decision: Decision, proxy: Proxy, every: Iterable[Endpoint]
) -> tuple[Outcome, ...]:
    # ztunnel, like a waypoint, sends HBONE to whatever takes it (section 10)
    like = Proxy.WAYPOINT if group.fixed is ZTUNNEL else proxy
    known: dict[int, dict[str, Any]] = {}
    found = []
    for endpoint in every:
        workload, port = endpoint.workload, endpoint.port
        side = world.policies.side(workload, port)
        fields = known.get(side)
        if fields is None:
            client, reason = to_endpoint(decision, world.policies, like, workload, port)
            server, rule, excluded = world.policies.server(workload, port)
            effective, failure = join(
                client,
                server,
                group.port.protocol,
                ambient=workload.proxy is Proxy.AMBIENT,
                mesh_certificates=decision.mesh_certificates,
            )
            if excluded and failure == "MTLS_TO_NO_PROXY":
                failure = "EXCLUDED_INBOUND"
            fields = _fields(group, "", decision.rule, rule, reason, failure)
            fields |= {"client": client, "server": server, "effective": effective}
            known[side] = fields
        found.append(Outcome(workload, {**fields, "server_name": workload.name}))
    return tuple(found)


def _without_endpoints(group: Group, decision: Decision) -> Outcome:
    client, reason = decision.client, decision.reason
    if decision.each:  # nobody is known to take mTLS
        client, reason = Client.PLAINTEXT, "NO_ENDPOINTS"
    server = Server.NO_PROXY
    effective, failure = join(
        client, server, group.port.protocol, ambient=False, mesh_certificates=False
    )
    if not group.service.external and not group.service.dns:
        reason = "NO_ENDPOINTS"
    fields = _fields(group, f"host:{group.host}", decision.rule, None, reason, failure)
    return Outcome(None, {**fields, "client": client, "server": server, "effective": effective})


def _fields(  # noqa: PLR0917 - called for every endpoint: keywords cost a third more
    group: Group,
    name: str,
    client_rule: str | None,
    server_rule: str | None,
    reason: str,
    failure: str,
) -> dict[str, Any]:
    return {
        "server_name": name,
        "host": group.host,
        "port": group.port.number,
        "subset": group.subset.name if group.subset else None,
        "reason": failure or reason,
        "why": sentence(reason, failure, client_rule, server_rule),
        "client_rule": client_rule,
        "server_rule": server_rule,
    }


def rows(
    world: World, client: str | None = None, host: str | None = None, port: int | None = None
) -> Iterator[Row]:
    """Judge every connection, or those of one client, host or service port.

    A pod's calls to itself are left out; the pods of a template do call one another.
    """
    chosen = world.workloads
    if client is not None:
        chosen = [world.by_name[client]] if client in world.by_name else []
    for workload in chosen:
        for name in world.services() if host is None else [host]:
            for group in _groups(world, workload, name, port):
                for outcome in _outcomes(world, group):
                    if outcome.workload is not workload or workload.template:
                        yield Row(client_name=workload.name, **outcome.fields)


def _class(world: World, client: Workload, special: set[str]) -> tuple[object, ...]:
    """Return all that can influence a client's answers; equal classes have equal answers."""
    if client.proxy in (Proxy.NONE, Proxy.AMBIENT):
        near = client.namespace if client.namespace in world.contested else None
        return client.proxy, near
    sidecar = world.scopes.of(client).sidecar
    near = client.namespace if sidecar or client.namespace in special else None
    return (
        client.proxy,
        near,
        client.own_certificates,
        () if client.captures_all else tuple(sorted(client.annotations.items())),
        sidecar,
        world.rules.selecting(client.namespace, client.labels) if near else (),
    )


def _bucket(
    world: World, client: Workload, near: Mapping[str, list[str]]
) -> tuple[object, set[str] | None]:
    """Return what a class does where nothing of its own counts, and the hosts where it may.

    The classes of one bucket have the same answers outside their own hosts; None stands for
    all hosts. `near` is the hosts by namespace.
    """
    bucket: tuple[object, ...] = (client.proxy, client.own_certificates)
    if client.proxy in (Proxy.NONE, Proxy.AMBIENT):
        return bucket, set()
    if not client.captures_all:
        return bucket, None
    hosts: set[str] = set()
    scope = world.scopes.of(client)
    if scope.sidecar and scope.sidecar.egress:
        for listener in scope.sidecar.egress:
            for written in listener.hosts:
                place, _, name = written.partition("/")
                if not place.startswith("~") and place == "*" and name.startswith("*"):
                    return bucket, None
                place = scope.namespace if place == "." else place
                hosts |= {name} if place == "*" else set(near.get(place, ()))
        return ("hidden", scope.allow_any), hosts.union(*scope.routed.values())
    local = world.rules.of_namespace(client.namespace)
    if local is not None:
        hosts |= local.exact.keys()
        hosts |= {h for h in world.by_host if any(host_matches(h, w) for w in local.wild)}
    return bucket, hosts


def summary(world: World) -> Iterator[Summary]:
    """Fold the whole matrix: one line per client class, service port and subset.

    Near linear: a class is looked at only for the hosts where something of its own counts.
    """
    special = world.special_namespaces()
    classes: dict[tuple[object, ...], list[Workload]] = defaultdict(list)
    for workload in world.workloads:
        classes[_class(world, workload, special)].append(workload)
    members = sorted(classes.values(), key=lambda found: found[0].name)
    names = [tuple(workload.name for workload in found) for found in members]
    near: dict[str, list[str]] = defaultdict(list)
    for service in world.every_service():
        near[service.namespace].append(service.host)
    buckets: dict[object, list[int]] = defaultdict(list)
    everywhere: list[int] = []
    own: dict[str, list[int]] = defaultdict(list)
    for index, found in enumerate(members):
        bucket, hosts = _bucket(world, found[0], near)
        if hosts is None:
            everywhere.append(index)
            continue
        buckets[bucket].append(index)
        for host in hosts:
            own[host].append(index)
    for host in world.restricted_hosts():
        own[host] = list(range(len(members)))
    for host in world.services():
        callers: dict[Group, list[int]] = defaultdict(list)
        alone = {*everywhere, *own.get(host, ())}
        rests = ([i for i in bucket if i not in alone] for bucket in buckets.values())
        for indexes in (*([index] for index in alone), *filter(None, rests)):
            for group in _groups(world, members[indexes[0]][0], host, None):
                callers[group] += indexes
        for group, indexes in callers.items():
            if outcomes := _outcomes(world, group):
                shared = tuple(names[index] for index in sorted(indexes))
                yield _folded(group, shared, [outcome.fields for outcome in outcomes])


def _folded(
    group: Group, shared: tuple[tuple[str, ...], ...], found: list[dict[str, Any]]
) -> Summary:
    worst = next((f for f in found if f["effective"] is Effective.CONFLICT), found[0])
    return Summary(
        classes=shared,
        host=group.host,
        port=group.port.number,
        subset=group.subset.name if group.subset else None,
        client=tuple(sorted({f["client"] for f in found})),
        server=tuple(sorted({f["server"] for f in found})),
        effective=tuple(sorted({f["effective"] for f in found})),
        rows=sum(map(len, shared)) * len(found),
        example=Row(client_name=shared[0][0], **worst),
        answers=tuple(found),
    )


def warnings(world: World) -> list[Warning]:
    """Say which configurations do not mean what they seem to."""
    return find_warnings(world)


def evaluate(objects: Iterable[Mapping[str, Any]], mesh: MeshConfig) -> Report:
    """Judge a set of objects."""
    world = World.parse(objects, mesh)
    return Report(
        rows=tuple(rows(world)), warnings=tuple(warnings(world)), ignored=dict(world.ignored)
    )
