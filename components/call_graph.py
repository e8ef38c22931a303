"""An application's call graph: which workload calls which, on what port, with which requests.

Data and nothing else: the policies, the list of edges that must be mutual TLS and the picture are
all made of it. What is not in the graph is not allowed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypedDict

INGRESS: Final = "ingress"
"""The client that is the ingress gateway."""

_METHOD = re.compile(r"[A-Z]+")
_PATH = re.compile(r"/[^*?#{}]*\*?|\*[^*?#{}]*")
_PORTS = range(1, 65536)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """Requests that are allowed: any of the methods, at any of the paths.

    https://istio.io/latest/docs/reference/config/security/authorization-policy/#Operation
    """

    methods: tuple[str, ...] = ()
    """HTTP methods, in capitals; () = any."""

    paths: tuple[str, ...] = ()
    """Paths without the query: exact ("/login"), prefix ("/static/*") or suffix ("*.css");
    () = any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A service: its pods carry the label `app` with its name."""

    name: str
    """Name of the Service and value of the label `app`."""

    port: int
    """The port on which its pods listen, 1 to 65535: policies see this one, not the Service's."""

    account: str
    """ServiceAccount of its pods, and of no other service's: the mesh knows them by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """The ingress gateway, as a client."""

    namespace: str
    """Where its pods are."""

    account: str
    """Their ServiceAccount."""

    labels: Mapping[str, str]
    """Labels that they, and no other pods of that namespace, carry; at least one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """An edge: one service may call another."""

    client: str
    """Name of a service of the graph, or `INGRESS`."""

    server: str
    """Name of a service of the graph."""

    operations: tuple[Operation, ...] = ()
    """Requests that are allowed; () = any. They need HTTP: on a TCP port nothing would match."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallGraph:
    """The services of one namespace and all calls between them."""

    namespace: str
    """Where the services are."""

    services: tuple[Service, ...]
    """The nodes."""

    calls: tuple[Call, ...]
    """The edges."""

    gateway: Gateway | None
    """Who `INGRESS` is; None where the mesh has no ingress gateway."""

    trust_domain: str = "cluster.local"
    """Where the mesh's identities belong (meshConfig.trustDomain)."""

    # looked up for every call: without them the policies of a graph would take its square
    _services: dict[str, Service] = field(init=False, repr=False, compare=False)
    _callers: dict[str, list[Call]] = field(init=False, repr=False, compare=False)
    _callees: dict[str, list[Call]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a graph of which no policy could be made that means what it says.

        Raises:
            ValueError: It names every problem.
        """
        problems = [*self._problems_of_services(), *self._problems_of_calls()]
        if problems:
            raise ValueError("the call graph is wrong: " + "; ".join(problems))
        callers: dict[str, list[Call]] = {}
        callees: dict[str, list[Call]] = {}
        for call in self.calls:
            callers.setdefault(call.server, []).append(call)
            callees.setdefault(call.client, []).append(call)
        object.__setattr__(self, "_services", {one.name: one for one in self.services})
        object.__setattr__(self, "_callers", callers)
        object.__setattr__(self, "_callees", callees)

    def _problems_of_services(self) -> list[str]:
        problems = [
            f"{name} is {count} services"
            for name, count in Counter(one.name for one in self.services).items()
            if count > 1
        ]
        problems += [
            f"{INGRESS} is the ingress gateway and cannot be a service"
            for one in self.services
            if one.name == INGRESS
        ]
        problems += [
            f"port {one.port} of {one.name} is not 1 to 65535"
            for one in self.services
            if one.port not in _PORTS
        ]
        accounts: dict[str, set[str]] = {}
        for one in self.services:
            accounts.setdefault(one.account, set()).add(one.name)
        problems += [
            f"{' and '.join(sorted(names))} share the account {account}: "
            "the mesh cannot tell them apart"
            for account, names in accounts.items()
            if len(names) > 1
        ]
        if self.gateway is not None and not self.gateway.labels:
            problems.append("the gateway has no labels: all pods of its namespace would be it")
        return problems

    def _problems_of_calls(self) -> list[str]:
        known = {one.name for one in self.services}
        problems = [
            f"{client} -> {server} stands there {count} times"
            for (client, server), count in Counter((c.client, c.server) for c in self.calls).items()
            if count > 1
        ]
        for call in self.calls:
            edge = f"{call.client} -> {call.server}"
            if call.client == INGRESS:
                if self.gateway is None:
                    problems.append(f"{edge}: there is no ingress gateway")
            elif call.client not in known:
                problems.append(f"{edge}: {call.client} is no service of the graph")
            if call.server not in known:
                problems.append(f"{edge}: {call.server} is no service of the graph")
            if call.client == call.server:
                problems.append(f"{edge}: a service does not call itself through the mesh")
            problems += [
                f"{edge}: {wrong}" for one in call.operations for wrong in _problems_of(one)
            ]
        return problems

    def service(self, name: str) -> Service:
        """The service of that name.

        Raises:
            KeyError: The graph has none.
        """
        return self._services[name]

    def principal(self, client: str) -> str:
        """A client's identity, as an AuthorizationPolicy spells it: without `spiffe://`.

        Args:
            client: A service of the graph, or `INGRESS`.

        Raises:
            KeyError: The graph has no such client.
        """
        if client == INGRESS:
            if self.gateway is None:
                raise KeyError(client)
            namespace, account = self.gateway.namespace, self.gateway.account
        else:
            namespace, account = self.namespace, self.service(client).account
        return f"{self.trust_domain}/ns/{namespace}/sa/{account}"

    def callers(self, server: str) -> tuple[Call, ...]:
        """The calls to a service."""
        return tuple(self._callers.get(server, ()))

    def callees(self, client: str) -> tuple[Call, ...]:
        """The calls of a service, or of `INGRESS`."""
        return tuple(self._callees.get(client, ()))


def _problems_of(operation: Operation) -> list[str]:
    problems = [
        f"method {method!r} would match nothing: methods are written in capitals"
        for method in operation.methods
        if not _METHOD.fullmatch(method)
    ]
    problems += [
        f"path {path!r} would match nothing: expected /exact, /prefix* or *suffix"
        for path in operation.paths
        if not _PATH.fullmatch(path)
    ]
    return problems


class Edge(TypedDict):
    """An edge in the words of tlscheck's arguments."""

    client: str
    """`NAMESPACE/POD-*`, for `--from`."""

    server: str
    """`SERVICE.NAMESPACE`, for `--to`."""


def edges(graph: CallGraph) -> list[Edge]:
    """What must be ISTIO_MUTUAL, as `tlscheck --from ... --to ...` takes it.

    Pods are found by the beginning of their names: their Deployments are called `SERVICE-VERSION`,
    the gateway's as its account.
    """
    found: list[Edge] = []
    for call in graph.calls:
        if call.client == INGRESS and graph.gateway is not None:
            client = f"{graph.gateway.namespace}/{graph.gateway.account}-*"
        else:
            client = f"{graph.namespace}/{call.client}-*"
        found.append({"client": client, "server": f"{call.server}.{graph.namespace}"})
    return found


def mermaid(graph: CallGraph, protection: Mapping[tuple[str, str], str]) -> str:
    """A picture of the graph for Markdown.

    Args:
        graph: What is drawn.
        protection: Text on an edge, by (client, server); lines are parted by a line feed.
            An edge without one is drawn dotted.
    """
    lines = ["flowchart LR"]
    if any(call.client == INGRESS for call in graph.calls):
        lines.append(f'    {_node(INGRESS)}(["ingress gateway"])')
    lines += [f'    {_node(one.name)}["{one.name}<br/>port {one.port}"]' for one in graph.services]
    for call in graph.calls:
        text = protection.get((call.client, call.server))
        arrow = f'-->|"{_label(text)}"|' if text else "-.->"
        lines.append(f"    {_node(call.client)} {arrow} {_node(call.server)}")
    return "\n".join(lines)


def _node(name: str) -> str:
    # a prefix: `end` and `graph` are words of Mermaid
    return f"svc_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"


def _label(text: str) -> str:
    return "<br/>".join(line.replace('"', "#quot;") for line in text.split("\n"))
