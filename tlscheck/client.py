"""What leaves the client's proxy: visibility, DestinationRule, tls and automatic mTLS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tlscheck.model import (
    DestinationRule,
    Labels,
    MeshConfig,
    Policy,
    Proxy,
    Service,
    Sidecar,
    Subset,
    Tls,
    VirtualService,
    Workload,
    host_matches,
    subset_of,
)
from tlscheck.rows import Client, Server
from tlscheck.server import Policies


@dataclass(eq=False, slots=True)
class Rule:
    """DestinationRules of one namespace and host, merged."""

    namespace: str
    selector: Labels | None
    export_to: frozenset[str]
    policy: Policy | None
    subsets: dict[str, Subset]
    owner: str
    """The rule whose trafficPolicy it is."""
    members: list[DestinationRule]

    def absorb(self, other: DestinationRule) -> None:
        """Merge a newer rule: the oldest policy is kept whole, subsets are united (6.6)."""
        self.members.append(other)
        self.subsets = {s.name: s for s in other.subsets} | self.subsets
        if self.policy is None and other.policy is not None:
            self.policy, self.owner = other.policy, other.meta.key

    def exported_to(self, namespace: str) -> bool:
        """Whether clients of another namespace may use it (6.4)."""
        return not self.export_to or "*" in self.export_to or namespace in self.export_to


@dataclass(eq=False, slots=True)
class Hosts:
    """The rules of one namespace by host."""

    exact: dict[str, list[Rule]] = field(default_factory=dict)
    wild: dict[str, list[Rule]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """Wildcards, longest first."""

    def add(self, found: DestinationRule) -> None:
        """Add a rule; called oldest first, those with a workloadSelector before the rest."""
        table = self.wild if found.host.startswith("*") else self.exact
        entries = table.setdefault(found.host, [])
        apart = True
        for entry in entries:  # model/destination_rule.go mergeDestinationRule
            if found.export_to == entry.export_to:
                apart = False
            else:
                apart = True
                if not entry.export_to or not found.export_to >= entry.export_to:
                    continue
            if found.selector is not None and entry.selector is not None:
                if found.selector != entry.selector:
                    apart = True
                    continue
                apart = False
            elif found.selector is None and entry.selector is None:
                apart = False
            entry.absorb(found)
        if apart:
            entries.append(
                Rule(
                    namespace=found.meta.namespace,
                    selector=found.selector,
                    export_to=found.export_to,
                    policy=found.policy,
                    subsets={s.name: s for s in found.subsets},
                    owner=found.meta.key,
                    members=[found],
                )
            )
        if table is self.wild and found.host not in self.order:
            self.order = sorted(self.wild, key=lambda host: (-len(host), host))

    def match(self, host: str) -> list[Rule]:
        """Rules of the most specific host (6.3)."""
        if found := self.exact.get(host):
            return found
        return next((self.wild[w] for w in self.order if host_matches(host, w)), [])


class Rules:
    """Every DestinationRule, in the three places a client looks (6.2)."""

    def __init__(self, found: Iterable[DestinationRule], mesh: MeshConfig) -> None:
        self.root = mesh.root_namespace
        self.local: dict[str, Hosts] = defaultdict(Hosts)
        self.exported: dict[str, Hosts] = defaultdict(Hosts)
        self.root_local = Hosts()
        self._last: dict[Service, tuple[list[Rule], list[Rule]]] = {}
        private = "." in mesh.destination_rule_export_to
        order = sorted(found, key=lambda rule: (rule.selector is None, rule.meta.age))
        for rule in order:
            namespace, to = rule.meta.namespace, rule.export_to
            if not rule.host:
                continue
            if not to or to & {"*", ".", namespace}:
                self.local[namespace].add(rule)
            if not ((not to and private) or (len(to) == 1 and to & {".", namespace})):
                self.exported[namespace].add(rule)
            elif namespace == self.root:
                self.root_local.add(rule)

    def at_service(self, service: Service) -> tuple[list[Rule], list[Rule]]:
        """Exported rules of the service's namespace and of the root (6.2 b, c), cached."""
        found = self._last.get(service)
        if found is None:
            places = (self.exported.get(service.namespace), self.exported.get(self.root))
            first, last = ([] if place is None else place.match(service.host) for place in places)
            found = self._last[service] = first, last
        return found

    def of_namespace(self, namespace: str) -> Hosts | None:
        """Rules that a namespace's own clients see first (6.2 a)."""
        return self.root_local if namespace == self.root else self.local.get(namespace)

    def selecting(self, namespace: str, labels: Labels) -> tuple[Rule, ...]:
        """Rules of a namespace whose workloadSelector matches."""
        place = self.of_namespace(namespace)
        return tuple(
            rule
            for table in ((place.exact, place.wild) if place else ())
            for entries in table.values()
            for rule in entries
            if rule.selector is not None and subset_of(rule.selector, labels)
        )

    def pick(
        self, namespace: str, labels: Labels, service: Service, *, any_pod: bool
    ) -> Rule | None:
        """Return the one rule for a client and a service.

        Args:
            namespace: the client's.
            labels: the client's.
            service: where it calls.
            any_pod: waypoints know no rules with a workloadSelector.
        """
        place = self.of_namespace(namespace)
        found = place.match(service.host) if place else []
        if not found:
            for entries in self.at_service(service):
                # the filter comes after the pick of the host (6.4)
                found = [rule for rule in entries if rule.exported_to(namespace)]
                if found:
                    break
        chosen = None
        for rule in found:
            if rule.selector is None:
                chosen = rule  # kept apart: the newest (6.6)
            elif not any_pod and rule.namespace == namespace and subset_of(rule.selector, labels):
                return rule  # 6.5
        return chosen


@dataclass(frozen=True, eq=False, slots=True)
class Scope:
    """What the clients of one Sidecar, or of none, can see (section 5)."""

    namespace: str
    sidecar: Sidecar | None
    allow_any: bool
    routed: dict[int, frozenset[str]] = field(default_factory=dict)
    """Hosts that VirtualServices imported by an egress listener route to."""

    def sees(self, service: Service, port: int) -> bool:
        """Whether the client's proxy has been told of a service port."""
        if not exported(service.export_to, service.namespace, self.namespace):
            return False
        if self.sidecar is None or not self.sidecar.egress:
            return True
        return any(
            (not listener.port or listener.port == port)
            and (
                self.imports(listener.hosts, service.namespace, service.host)
                or service.host in self.routed.get(index, ())
            )
            for index, listener in enumerate(self.sidecar.egress)
        )

    def imports(self, hosts: tuple[str, ...], namespace: str, host: str) -> bool:
        """Whether egress hosts, `namespace/dns` each, cover a host of a namespace."""
        wanted = False
        for written in hosts:
            place, _, name = written.partition("/")
            excluded = place.startswith("~") and len(place) > 1
            place = place[1:] if excluded else place
            place = self.namespace if place == "." else place
            if place in ("*", namespace) and host_matches(host, name):
                if excluded:
                    return False
                wanted = True
        return wanted


def exported(to: tuple[str, ...], owner: str, namespace: str) -> bool:
    """Whether an object's exportTo reaches a namespace."""
    return "*" in to or namespace in to or ("." in to and owner == namespace)


class Scopes:
    """Every Sidecar resource, by the clients it counts for."""

    def __init__(
        self, found: Iterable[Sidecar], routes: Iterable[VirtualService], mesh: MeshConfig
    ) -> None:
        self.mesh = mesh
        self.routes = sorted(routes, key=lambda route: route.meta.age)
        self.by_namespace: dict[str, list[Sidecar]] = defaultdict(list)
        for sidecar in sorted(found, key=lambda sidecar: sidecar.meta.age):
            self.by_namespace[sidecar.meta.namespace].append(sidecar)
        self._made: dict[tuple[str, Sidecar | None], Scope] = {}
        self._of: dict[Workload, Scope] = {}

    def of(self, client: Workload) -> Scope:
        """Return the scope of a client."""
        if client not in self._of:
            self._of[client] = self._find(client)
        return self._of[client]

    def _find(self, client: Workload) -> Scope:
        own, root = (
            self.by_namespace.get(n, []) for n in (client.namespace, self.mesh.root_namespace)
        )
        chosen = None
        if client.proxy in (Proxy.SIDECAR, Proxy.PROXYLESS):  # gateways ignore Sidecars
            chosen = next(
                (s for s in own if s.selector and subset_of(s.selector, client.labels)),
                next((s for s in (*own, *root) if s.selector is None), None),
            )
        key = client.namespace, chosen
        if key not in self._made:
            allow = self.mesh.outbound_allow_any
            if chosen and chosen.allow_any is not None:
                allow = chosen.allow_any
            scope = Scope(client.namespace, chosen, allow)
            for index, listener in enumerate(chosen.egress if chosen else ()):
                scope.routed[index] = frozenset(
                    target
                    for route in self.routes
                    if exported(route.export_to, route.meta.namespace, client.namespace)
                    and any(
                        scope.imports(listener.hosts, route.meta.namespace, host)
                        for host in route.hosts
                    )
                    for target in route.destinations
                )
            self._made[key] = scope
        return self._made[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """How a client's cluster connects, before its endpoints are looked at."""

    client: Client
    reason: str
    rule: str | None = None
    each: bool = False
    """Automatic: ISTIO_MUTUAL to endpoints that can take it, PLAINTEXT to the rest."""
    endpoint_mode: str | None = None
    """What the endpoints' own lookup of the rule yields (section 7)."""
    hbone: bool = False
    """Sent as HBONE to endpoints behind ztunnel."""
    mesh_certificates: bool = False


def cluster_policy(
    rule: Rule | None, port: int, subset: Subset | None
) -> tuple[Tls | None, bool, str]:
    """Resolve the cluster half (section 7, MergeSubsetTrafficPolicy).

    Returns:
        The tls setting, whether load balancing is PASSTHROUGH, and the rule that wrote the tls.
    """
    if rule is None:
        return None, False, ""
    base = rule.policy.ports.get(port, rule.policy) if rule.policy else None
    tls, passthrough = (base.tls, base.passthrough) if base else (None, False)
    own = subset.policy if subset else None
    if subset is None or own is None:
        return tls, passthrough, rule.owner
    narrow = own.ports.get(port)
    if narrow is not None:  # replaces, even by "unset"
        return narrow.tls, narrow.passthrough, subset.owner
    return (
        own.tls or tls,
        own.passthrough if own.lb else passthrough,
        subset.owner if own.tls else rule.owner,
    )


def endpoint_mode(rule: Rule | None, port: int, subset: Subset | None) -> str | None:
    """Resolve the endpoint half (mtls_checker.go): nothing hides the policy-level tls."""
    for policy in (subset.policy if subset else None, rule.policy if rule else None):
        if policy:
            narrow = policy.ports.get(port)
            tls = (narrow.tls if narrow else None) or policy.tls
            if tls:
                return tls.mode
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A service port and subset, as one kind of client has it."""

    proxy: Proxy
    rule: Rule | None
    service: Service
    port: int
    subset: Subset | None
    tags: tuple[str, ...]
    """The tlsMode tags of all endpoints of the service port."""
    own_certificates: bool
    """The client's proxy has files in the place of Istio's certificates."""


def _explicit(tls: Tls, cluster: Cluster) -> tuple[Client, str]:
    """Return what a tls setting sends to every endpoint, proxy or not (section 7)."""
    if cluster.own_certificates and tls.mode in ("MUTUAL", "ISTIO_MUTUAL"):
        return Client.MUTUAL, "OWN_CERTIFICATES"
    if tls.mode in ("SIMPLE", "MUTUAL"):
        kept = not tls.credential or tls.credential.startswith("configmap://")
        open_to_all = cluster.rule is None or cluster.rule.selector is None
        if not kept and cluster.proxy is Proxy.SIDECAR and open_to_all:
            return Client.PLAINTEXT, "CREDENTIAL_SKIPPED"
        if tls.mode == "MUTUAL" and not tls.credential and not tls.has_files:
            return Client.PLAINTEXT, "MUTUAL_WITHOUT_CERTIFICATE"
    return (Client.PLAINTEXT if tls.mode == "DISABLE" else Client(tls.mode)), "DR_TLS"


def _no_automatic(mesh: MeshConfig, policies: Policies, cluster: Cluster) -> str:
    """Return the reason why automatic mTLS is off for a cluster without tls, if it is."""
    service, rule, subset = cluster.service, cluster.rule, cluster.subset
    # PASSTHROUGH is looked for in the unmerged policies, the subset's or the rule's own
    raw = subset.policy if subset else (rule.policy if rule else None)
    passthrough = service.passthrough or (raw is not None and raw.passthrough)
    off = {
        "AUTO_MTLS_OFF": not mesh.enable_auto_mtls,
        "MESH_EXTERNAL": service.external,
        "PASSTHROUGH_EMPTY": passthrough and not cluster.tags,
        "PASSTHROUGH_MIXED": passthrough and "disabled" in cluster.tags,
        "NAMESPACE_DISABLE": policies.namespace_mode(service.namespace)[0] is Server.DISABLE,
    }
    return next((reason for reason, holds in off.items() if holds), "")


def decide(mesh: MeshConfig, policies: Policies, cluster: Cluster) -> Decision:
    """Decide how a cluster connects (section 7)."""
    proxy, rule, service = cluster.proxy, cluster.rule, cluster.service
    tls, balanced, owner = cluster_policy(rule, cluster.port, cluster.subset)
    if proxy is Proxy.PROXYLESS:  # no automatic mTLS; one mode counts (section 2)
        mutual = tls is not None and tls.mode == "ISTIO_MUTUAL"
        client = Client.ISTIO_MUTUAL if mutual else Client.PLAINTEXT
        return Decision(
            client=client, reason="DR_TLS" if mutual else "PROXYLESS", rule=owner or None
        )
    if proxy is Proxy.WAYPOINT:  # section 10: other modes mean nothing there
        client, reason = Client.PLAINTEXT, "WAYPOINT_RAW"
        if tls is not None and tls.mode in ("SIMPLE", "MUTUAL"):
            client, reason = _explicit(tls, cluster)
        return Decision(client=client, reason=reason, rule=owner or None, hbone=True)
    # gateways get the endpoints of headless services one by one
    one_by_one = service.headless and proxy is Proxy.GATEWAY
    original = balanced or (service.passthrough and not one_by_one)
    each, mode = False, None
    if tls is not None:
        client, reason = _explicit(tls, cluster)
    elif off := _no_automatic(mesh, policies, cluster):
        client, reason = Client.PLAINTEXT, off
    else:
        client = Client.MUTUAL if cluster.own_certificates else Client.ISTIO_MUTUAL
        reason, each = ("PASSTHROUGH_ALL", False) if original else ("AUTO_MTLS", True)
        mode = endpoint_mode(rule, cluster.port, cluster.subset)
    return Decision(
        client=client,
        reason=reason,
        rule=owner or None,
        each=each,
        endpoint_mode=mode,
        # endpoints of original-destination clusters have no metadata (section 10)
        hbone=mesh.ambient and not original and reason != "MUTUAL_WITHOUT_CERTIFICATE",
        mesh_certificates=cluster.own_certificates and client is Client.MUTUAL,
    )


def to_endpoint(
    decision: Decision, policies: Policies, proxy: Proxy, endpoint: Workload, port: int
) -> tuple[Client, str]:
    """Return what one endpoint is sent, and the reason code (endpoint half of section 7)."""
    # a sidecar keeps to classic mTLS with a sidecar
    reached = endpoint.hbone if proxy is Proxy.WAYPOINT else endpoint.proxy is Proxy.AMBIENT
    plain = ""
    if decision.hbone and reached:
        return Client.HBONE, "HBONE"
    if decision.each and endpoint.tag != "istio":
        plain = "AUTO_NO_SIDECAR"
    elif decision.each and decision.endpoint_mode is not None:
        plain = "" if decision.endpoint_mode == "ISTIO_MUTUAL" else "DR_TLS_AT_ENDPOINT"
    elif decision.each and policies.composed(endpoint).at(port)[0] is Server.DISABLE:
        plain = "PA_DISABLE"
    return (Client.PLAINTEXT, plain) if plain else (decision.client, decision.reason)
