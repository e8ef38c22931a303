"""What an update does to the encryption between workloads: tlscheck before and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from review.objects import Declared
from review.preview import Document, items, mapping
from tlscheck import compare, sources
from tlscheck.documents import BadInputError
from tlscheck.rows import Effective, Server
from tlscheck.stack import HIDDEN, NOT_YET
from tlscheck.world import GROUPS

Edge = tuple[str, str, str, int]
"""Client, server, host and port."""
NO_PROXY = "to servers without a proxy"
"""Said instead of PLAINTEXT where no mutual TLS could be: gateways, istiod, what observes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Edges to one server that change in the same way."""

    clients: tuple[str, ...]
    """`namespace/workload`, sorted."""
    server: str
    """The same, or the host where there is none."""
    port: int
    before: Effective | None
    after: Effective | None
    why: str
    declared: bool
    """Whether the stack itself says that its workloads call one another so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Security:
    """The difference."""

    worse: tuple[Line, ...]
    """Encrypted before and not after, mutual before and not after, or cut off."""
    opened: tuple[Line, ...]
    """Refused before, and plaintext after."""
    better: tuple[Line, ...]
    """The opposite of `worse`, without `opened`."""
    fresh: tuple[Line, ...]
    """New edges that are plaintext, though the server has a proxy."""
    appear: Counter[str]
    """All new edges, by their mode or `NO_PROXY`."""
    vanish: int
    """Edges that are no more, because their client or their server is."""
    unchanged: Counter[str]
    """The others, likewise."""
    notes: tuple[str, ...]
    """What could not be known."""


def count(lines: Iterable[Line]) -> int:
    """How many edges these are."""
    return sum(len(line.clients) for line in lines)


def judge(before: Sequence[Declared], after: Sequence[Declared], document: Document) -> Security:
    """Ask tlscheck about both sides."""
    notes: list[str] = []
    old, new = _found(before, notes), _found(after, notes)
    there = _by_edge(compare.compare(sources.Found(), old))
    then = _by_edge(compare.compare(sources.Found(), new))
    calls = _calls(document)
    changed: dict[str, list[compare.Changed]] = {}
    for found in compare.compare(old, new):
        edge = _edge(found)
        one: compare.Changed | None = found
        # a subset that comes or goes is neither a new edge nor a lost one
        if found.before is None and edge in there:
            one = _new_subset(found, there[edge])
        elif found.after is None and edge in then:
            one = None
        if one:
            changed.setdefault(_group(one), []).append(one)
    touched = {_edge(one) for group in changed.values() for one in group}
    made = changed.get("appear", ())
    return Security(
        worse=_lines(changed.get("worse", ()), calls),
        opened=_lines(changed.get("opened", ()), calls),
        better=_lines(changed.get("better", ()), calls),
        fresh=_lines((one for one in made if _mode(one) == Effective.PLAINTEXT), calls),
        appear=Counter({_edge(one): _mode(one) for one in made}.values()),
        vanish=len({_edge(one) for one in changed.get("vanish", ())}),
        unchanged=Counter(_word(same) for edge, same in then.items() if edge not in touched),
        notes=tuple(sorted(set(notes))),
    )


def _group(one: compare.Changed) -> str:
    if one.before is None:
        return "appear"
    if one.after is None:
        return "vanish"
    if one.after is Effective.PLAINTEXT and not one.worse:
        return "opened"
    return "worse" if one.worse else "better"


def _edge(one: compare.Changed) -> Edge:
    return one.client, one.server, one.host, one.port


def _by_edge(edges: Iterable[compare.Changed]) -> dict[Edge, list[compare.Changed]]:
    found: dict[Edge, list[compare.Changed]] = {}
    for one in edges:
        found.setdefault(_edge(one), []).append(one)
    return found


def _new_subset(one: compare.Changed, before: Sequence[compare.Changed]) -> compare.Changed | None:
    """A new subset, beside what its service's other subsets were; None if it is like one."""
    modes = {each.after for each in before}
    if one.after in modes:
        return None
    beside = [replace(one, before=mode) for mode in sorted(filter(None, modes))]
    return next((each for each in beside if each.worse), beside[0])


def _mode(one: compare.Changed) -> str:
    bare = one.row.server is Server.NO_PROXY and one.after is Effective.PLAINTEXT
    return NO_PROXY if bare else str(one.after)


def _word(edges: Sequence[compare.Changed]) -> str:
    modes = {_mode(one) for one in edges}
    return min(modes) if len(modes) == 1 else "of several modes"


def _lines(edges: Iterable[compare.Changed], calls: Sequence[tuple[str, str]]) -> tuple[Line, ...]:
    """Joined by server, the stack's own calls first."""
    found: dict[tuple[object, ...], tuple[compare.Changed, set[str]]] = {}
    callers: dict[str, list[str]] = {}
    for one in edges:
        if one.host not in callers:
            callers[one.host] = [
                c for c, server in calls if f"{one.host}.".startswith(f"{server}.")
            ]
        # the pattern is of a pod, `namespace/deployment-*`
        names = one.client, f"{one.client}-"
        ours = any(fnmatchcase(name, like) for like in callers[one.host] for name in names)
        key = (not ours, one.server, one.port, str(one.before), str(one.after), one.why)
        found.setdefault(key, (one, set()))[1].add(one.client)
    return tuple(
        Line(
            clients=tuple(sorted(clients)),
            server=one.server,
            port=one.port,
            before=one.before,
            after=one.after,
            why=one.why,
            declared=not key[0],
        )
        for key, (one, clients) in sorted(found.items(), key=lambda pair: pair[0][:-1])
    )


def _calls(document: Document) -> list[tuple[str, str]]:
    """The stack's output `calls`, if it has one: patterns of clients, and their servers."""
    stack = [one for one in document.resources if one.type == "pulumi:pulumi:Stack"]
    states = [side for one in stack for side in (one.new, one.old) if side]
    found = next((side.outputs["calls"] for side in states if "calls" in side.outputs), None)
    said = map(mapping, items(found))
    return [(str(call.get("client")), str(call.get("server"))) for call in said]


def _found(side: Sequence[Declared], notes: list[str]) -> sources.Found:
    found = sources.Found()
    for one in side:
        if one.crd or one.key.kind == "Secret":
            continue
        hidden: list[str] = []
        item = mapping(_known(one.item, "", hidden))
        if one.key.kind in GROUPS and hidden:
            paths = ", ".join(sorted(hidden))
            notes.append(f"{one.key.kind} {one.key.place}: secret or not known yet: {paths}")
        meta = {"creationTimestamp": one.created or NOT_YET} | mapping(item.get("metadata"))
        found.objects.append(item | {"metadata": meta})
    try:
        sources.mesh_config(found)
    except BadInputError as error:
        notes.append(str(error))
        found.objects = [one for one in found.objects if one.get("kind") != "ConfigMap"]
    return found


def _known(value: object, path: str, hidden: list[str]) -> object:
    """The value without what is hidden in it, whose paths are noted."""
    if isinstance(value, dict):
        cleaned = {k: _known(v, f"{path}.{k}".lstrip("."), hidden) for k, v in value.items()}
        return {key: item for key, item in cleaned.items() if item is not None}
    if isinstance(value, list):
        return [_known(item, f"{path}[{at}]", hidden) for at, item in enumerate(value)]
    if value in (*HIDDEN, "[hidden]"):
        hidden.append(path)
        return None
    return value


def modes(counted: Counter[str]) -> Iterator[str]:
    """`3 ISTIO_MUTUAL`, those of the mesh first."""
    for mode, number in sorted(counted.items(), key=lambda pair: (pair[0] == NO_PROXY, pair)):
        yield f"{number} {'refused' if mode == Effective.CONFLICT else mode}"
