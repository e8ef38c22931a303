"""Going STRICT without an outage: which edges that work now would fail, why, and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tlscheck import report, sources
from tlscheck.advice import INJECT, Facts, advise
from tlscheck.compare import Changed, compare
from tlscheck.documents import BadInputError, mapping, printable
from tlscheck.edges import Exceptions, suggest
from tlscheck.model import MeshConfig, Proxy, selector_of
from tlscheck.rows import Client
from tlscheck.world import World

NOT_COUNTED = "left out are clients in kube-*, and those without a proxy beside the control plane"
_NAMES = 12
"""Clients, and services, of a group of edges that are told; the rest is counted."""
_ANSWERS = 3
"""Clients of a group of edges that are told what to do."""


def root_namespace(found: sources.Found) -> str:
    """Namespace whose policies are the mesh's.

    Raises:
        BadInputError: A ConfigMap istio does not hold YAML.
    """
    return MeshConfig.parse(sources.mesh_config(found)).root_namespace


def check_namespace(found: sources.Found, namespace: str) -> None:
    """Make sure that a namespace is among the objects.

    Raises:
        BadInputError: It is not.
    """
    metas = [(item.get("kind"), mapping(item.get("metadata"))) for item in found.objects]
    known = {str(m.get("name") if k == "Namespace" else m.get("namespace")) for k, m in metas}
    if namespace not in {*known, root_namespace(found)}:
        hint = suggest(namespace, sorted(known - {"None"}))
        raise BadInputError(f"no namespace {printable(namespace)} among the objects{hint}")


def as_if_strict(found: sources.Found, namespace: str) -> sources.Found:
    """The objects with STRICT for a namespace, or for the mesh where that is its root's.

    What is said there for all workloads is replaced; policies with a selector, and those of other
    namespaces, stay.
    """
    kept = [item for item in found.objects if not _wide(item, namespace)]
    strict: sources.Json = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": {"mtls": {"mode": "STRICT"}},
    }
    return sources.Found([*kept, strict], found.notes, found.mesh, found.ambient)


def _wide(item: sources.Json, namespace: str) -> bool:
    place = mapping(item.get("metadata")).get("namespace") or "default"
    return (
        item.get("kind") == "PeerAuthentication"
        and place == namespace
        and not selector_of(mapping(item.get("spec")).get("selector"))
    )


@dataclass(frozen=True, kw_only=True)
class CutOff:
    """What would fail."""

    edges: tuple[Changed, ...]
    """By host, port, subset, client and server."""

    left_out: tuple[str, ...]
    """Clients that do not count, `namespace/workload`."""

    facts: Facts = field(repr=False)

    def groups(self) -> Iterator[Group]:
        """The same, those of a client together, and clients with the same edges."""
        targets: dict[tuple[str, str], dict[str, Changed]] = defaultdict(dict)
        for one in self.edges:
            target = f"{report.short(one.host)}:{one.port}"
            cause = one.why.partition(": ")[2] or one.why
            targets[one.client, cause].setdefault(target, one)
        clients: dict[tuple[str, tuple[str, ...]], list[Changed]] = defaultdict(list)
        for (_, cause), reached in targets.items():
            clients[cause, tuple(sorted(reached))].append(next(iter(reached.values())))
        for (cause, reached_by_all), examples in sorted(clients.items()):
            names = sorted(one.client for one in examples)
            yield Group(tuple(names), reached_by_all, cause, tuple(examples), self.facts)

    def advice(self) -> list[str]:
        """What to do, each step once."""
        return list(dict.fromkeys(step for group in self.groups() for step in group.advice()))


@dataclass(frozen=True)
class Group:
    """Edges that fail for one cause: each of the clients to each of the targets."""

    clients: tuple[str, ...]
    targets: tuple[str, ...]
    """`service.namespace:port`"""
    cause: str
    examples: tuple[Changed, ...] = field(repr=False)
    """One of each client."""
    facts: Facts = field(repr=False)

    def __str__(self) -> str:
        return f"{_several(self.clients)} -> {_several(self.targets)}: {self.cause}"

    def advice(self) -> list[str]:
        """What to do about the first of its clients, each step once."""
        told = (step for one in self.examples[:_ANSWERS] for step in advise(one.row, self.facts))
        return list(dict.fromkeys(told))


def _several(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + rest


def without_sidecar(found: sources.Found, namespace: str) -> list[str]:
    """Workloads of a namespace with running pods that lack the sidecar their successors will get.

    Those that opted out, with `sidecar.istio.io/inject: "false"` or hostNetwork, never get one.
    """
    facts = Facts(found.objects)
    names = []
    for pod in World.parse(found.objects, MeshConfig()).workloads:
        opted_out = pod.labels.get(INJECT, pod.annotations.get(INJECT)) == "false"
        spec = mapping(mapping(facts.workloads.get(pod.name)).get("spec"))
        if (
            pod.namespace == namespace
            and pod.proxy is Proxy.NONE
            and not (pod.template or opted_out or spec.get("hostNetwork"))
        ):
            names.append(facts.workload(pod.name))
    return sorted(set(names))


def cut_off(
    before: sources.Found,
    after: sources.Found,
    excepted: Collection[str] = (),
    outside: Iterable[str] = (),
) -> CutOff:
    """Say which edges work before and fail after.

    Clients of kube-* namespaces do not count, nor do those without a proxy in the root namespace:
    nodes' agents, istiod and what observes the mesh call no application.

    Args:
        before: The objects as they are.
        after: As they would be.
        excepted: Edges that may fail, FROM:TO or FROM:TO:PORT.
        outside: Namespaces like the root namespace.

    Raises:
        BadInputError: An exception cannot be read, or a ConfigMap istio does not hold YAML.
    """
    facts = Facts(after.objects)
    exceptions = Exceptions.parse([*excepted], facts)
    apart = {root_namespace(after), *outside}
    edges: list[Changed] = []
    left_out: set[str] = set()
    for one in compare(before, after):
        if not one.cut_off or exceptions.name(one.client, one.server, one.host, one.port):
            continue
        namespace = one.client.partition("/")[0]
        if namespace.startswith("kube-") or (
            namespace in apart and one.row.client is Client.NO_PROXY
        ):
            left_out.add(one.client)
        else:
            edges.append(one)
    return CutOff(edges=tuple(edges), left_out=tuple(sorted(left_out)), facts=facts)
