"""Two sets of objects: which connections get another answer, workload by workload."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tlscheck import sources
from tlscheck.advice import Facts
from tlscheck.evaluate import Summary, summary
from tlscheck.model import MeshConfig
from tlscheck.rows import Effective, Row
from tlscheck.world import World

_RANK = {
    Effective.CONFLICT: 0,
    Effective.PLAINTEXT: 1,
    Effective.SIMPLE: 2,
    Effective.MUTUAL: 3,
    # the same identities: one is as good as the other
    Effective.HBONE: 4,
    Effective.ISTIO_MUTUAL: 4,
}
"""The higher the better."""

Answer = Mapping[str, Any]
"""A row's fields without its client."""
Line = tuple[str, int, str | None]
"""Host, port and subset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """One edge whose answer differs: from one workload to another, their pods folded."""

    client: str
    """`namespace/workload`: the Deployment or the like, else the pod."""

    server: str
    """Likewise; the host where no workload is known."""

    host: str
    """Full name of the service."""

    port: int
    """Service port."""

    subset: str | None
    """Subset of the DestinationRule; None is the service's main cluster."""

    before: Effective | None
    """None: there was no such edge."""

    after: Effective | None
    """None: there is no such edge any more."""

    why: str
    """What decides; of an edge that is no more, what decided."""

    pod: str
    """The client's pod that `why` is about: of those whose answers differ, one with the worst."""

    answer: Answer = field(repr=False)
    """Likewise: its row's fields without the client."""

    @property
    def row(self) -> Row:
        """The connection that `why` is about."""
        return Row(client_name=self.pod, **self.answer)

    @property
    def worse(self) -> bool:
        """Whether it was encrypted and is not, was mutual and is not, or worked and does not."""
        return self._step < 0

    @property
    def better(self) -> bool:
        """The opposite of `worse`; an edge that is new or gone is neither."""
        return self._step > 0

    @property
    def cut_off(self) -> bool:
        """Whether it worked and does not."""
        return self.after is Effective.CONFLICT and self.before not in (None, Effective.CONFLICT)

    @property
    def _step(self) -> int:
        return _step(self.before, self.after)


def _step(before: Effective | None, after: Effective | None) -> int:
    """How much better it becomes."""
    return 0 if before is None or after is None else _RANK[after] - _RANK[before]


def _rank(mode: Effective | None) -> int:
    return len(_RANK) if mode is None else _RANK[mode]


class _Differing(NamedTuple):
    """An endpoint whose answers differ."""

    gravity: tuple[int, int, int]
    """Worst first, to sort by."""
    label: str
    server: str
    before: Effective | None
    after: Effective | None
    answer: Answer
    side: _Side
    """Where the answer is from."""


class _Side:
    """One set of objects, judged."""

    def __init__(self, found: sources.Found) -> None:
        ambient = sources.ambient_enabled(found)
        mesh = MeshConfig.parse(sources.mesh_config(found), ambient=ambient)
        self.facts = Facts(found.objects)
        self.world = World.parse(found.objects, mesh)
        self.templates = {w.name for w in self.world.workloads if w.template}
        self.pods: dict[str, set[str]] = defaultdict(set)
        """By workload."""
        for name in self.world.clients():
            self.pods[self.facts.workload(name)].add(name)
        self.lines: dict[Line, list[Summary]] = defaultdict(list)
        self.classes: dict[str, int] = {}
        """A number for all pods that get the same answers."""
        numbers: dict[int, int] = {}
        for line in summary(self.world):
            if Row(client_name="", **line.answers[0]).possible:
                self.lines[line.host, line.port, line.subset].append(line)
            for names in line.classes:
                # the lines share the tuples
                if id(names) not in numbers:
                    numbers[id(names)] = len(numbers)
                    self.classes |= dict.fromkeys(names, numbers[id(names)])


@dataclass(kw_only=True)
class _Callers:
    """Clients whose answers are equal, before and after."""

    before: frozenset[int]
    after: frozenset[int]
    names: list[str]


class _Comparison:
    def __init__(self, before: _Side, after: _Side) -> None:
        self.before, self.after = before, after
        self.same = {
            workload
            for workload, pods in before.pods.items()
            if pods == after.pods.get(workload, ())
        }
        """Workloads whose pods are told apart: they are the same before and after."""
        groups: dict[tuple[frozenset[int], frozenset[int]], list[str]] = defaultdict(list)
        members: dict[str, tuple[set[int], set[int]]] = {}
        for at, side in enumerate((before, after)):
            for name, number in side.classes.items():
                members.setdefault(self.label(side, name), (set(), set()))[at].add(number)
        for label, (old, new) in members.items():
            groups[frozenset(old), frozenset(new)].append(label)
        self.callers = [
            _Callers(before=old, after=new, names=sorted(names))
            for (old, new), names in groups.items()
        ]

    def label(self, side: _Side, name: str) -> str:
        """A name that is the same on both sides: the pod's, or its workload's."""
        workload = side.facts.workload(name)
        return name if workload in self.same else workload

    def changed(self) -> Iterator[Changed]:
        lines = {*self.before.lines, *self.after.lines}
        for line in sorted(lines, key=lambda one: (one[0], one[1], one[2] or "")):
            host, port, subset = line
            found = self._of_line(line)
            for client, server in sorted(found):
                name, worst = found[client, server]
                side = worst.side
                yield Changed(
                    client=client,
                    server=server,
                    host=host,
                    port=port,
                    subset=subset,
                    before=worst.before,
                    after=worst.after,
                    why=worst.answer["why"],
                    pod=name if name in side.classes else min(side.pods[name]),
                    answer=worst.answer,
                )

    def _of_line(self, line: Line) -> dict[tuple[str, str], tuple[str, _Differing]]:
        """By client and server: the label of a client, and its worst difference."""
        old, new = (
            {
                side.classes[names[0]]: index
                for index, one in enumerate(side.lines.get(line, ()))
                for names in one.classes
            }
            for side in (self.before, self.after)
        )
        known: dict[object, list[_Differing]] = {}
        found: dict[tuple[str, str], tuple[str, _Differing]] = {}
        for callers in self.callers:
            was = frozenset(old[number] for number in callers.before if number in old)
            is_now = frozenset(new[number] for number in callers.after if number in new)
            if (was, is_now) not in known:
                known[was, is_now] = self._differing(line, was, is_now)
            differing = known[was, is_now]
            labels = {one.label for one in differing}
            worst = {one.server: one for one in sorted(differing, reverse=True)}
            for name in callers.names if differing else ():
                of_client = worst
                if name in labels and self._alone(name):
                    others = (one for one in differing if one.label != name)
                    of_client = {one.server: one for one in sorted(others, reverse=True)}
                client = self.before.facts.workload(name)
                for server, one in of_client.items():
                    key = client, server
                    if key not in found or one.gravity < found[key][1].gravity:
                        found[key] = name, one
        return found

    def _differing(self, line: Line, was: Iterable[int], is_now: Iterable[int]) -> list[_Differing]:
        old = self._answers(self.before, line, was)
        new = self._answers(self.after, line, is_now)
        found = []
        for label in {*old, *new}:
            before, after = (
                given[label]["effective"] if label in given else None for given in (old, new)
            )
            if before is after:
                continue
            found.append(
                _Differing(
                    gravity=(_step(before, after), _rank(after), _rank(before)),
                    label=label,
                    server=line[0] if ":" in label else self.before.facts.workload(label),
                    before=before,
                    after=after,
                    answer=new.get(label) or old[label],
                    side=self.after if label in new else self.before,
                )
            )
        return found

    def _answers(self, side: _Side, line: Line, indexes: Iterable[int]) -> dict[str, Answer]:
        """The worst answer of each endpoint."""
        found: dict[str, Answer] = {}
        for index in indexes:
            for answer in side.lines[line][index].answers:
                label = self.label(side, answer["server_name"])
                worst = found.setdefault(label, answer)
                if _RANK[answer["effective"]] < _RANK[worst["effective"]]:
                    found[label] = answer
        return found

    def _alone(self, label: str) -> bool:
        """Whether it is one pod, which does not call itself."""
        sides = self.before, self.after
        if any(label in side.templates for side in sides):
            return False
        return all(label in side.classes or len(side.pods.get(label, ())) <= 1 for side in sides)


def compare(before: sources.Found, after: sources.Found) -> Iterator[Changed]:
    """Say which edges get another answer, by host, port, subset, client and server.

    Pods are told apart where a workload has the same ones before and after, and then the one that
    changes for the worst counts; else the worst pod before is compared with the worst after. A
    service without endpoints has no edges. Near linear, as `summary` is.

    Raises:
        BadInputError: A ConfigMap istio does not hold YAML.
    """
    return _Comparison(_Side(before), _Side(after)).changed()
