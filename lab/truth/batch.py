"""Several cases on the lab at once: each in namespaces of its own, under names of its own."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]

ROOT_NAMESPACE = "istio-system"
_MOST_CASES = 16
_CLUSTER_HOST = re.compile(r"(?P<name>.*)\.(?P<namespace>[^.]+)(?P<rest>\.svc\.cluster\.local)")
_EXPORT = "networking.istio.io/exportTo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What a case's names are on the lab."""

    prefix: str
    own: frozenset[str]
    """The case's namespaces, the root namespace left out: that one keeps its name."""

    def namespace(self, written: str) -> str:
        """Name of a namespace; `.` and `*` stay what they are."""
        return self.prefix + written if written in self.own else written

    def host(self, written: str) -> str:
        """A host name, or a wildcard: those of other cases do not match it."""
        if match := _CLUSTER_HOST.fullmatch(written):
            return f"{match['name']}.{self.namespace(match['namespace'])}{match['rest']}"
        if "." not in written or written.endswith(".local"):
            return written
        return f"{written}.{self.prefix}case"

    def pod(self, written: str) -> str:
        """`namespace/pod`; an endpoint outside, `ep:` or `host:`, is no pod."""
        where, slash, name = written.partition("/")
        return f"{self.namespace(where)}/{name}" if slash else written

    def live(self, item: Object) -> Object:
        """The object under its name on the lab."""
        found: Object = self._renamed(item)
        meta = found["metadata"]
        if item["kind"] == "Namespace":
            meta["name"] = self.namespace(meta["name"])
            return found
        if meta["namespace"] not in self.own:
            meta["name"] = self.prefix + meta["name"]
        meta["namespace"] = self.namespace(meta["namespace"])
        return found

    def _renamed(self, value: Any, key: str = "") -> Any:  # noqa: ANN401 (any JSON)
        if isinstance(value, dict):
            return {name: self._renamed(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [self._renamed(one, key) for one in value]
        if key in {"host", "hosts"}:
            where, slash, name = value.rpartition("/")
            but = "~" if len(where) > 1 and where.startswith("~") else ""
            return f"{but}{self.namespace(where.removeprefix(but))}{slash}{self.host(name)}"
        if key in {"exportTo", _EXPORT}:
            return ",".join(map(self.namespace, value.split(",")))
        return self.host(value) if key == "externalName" else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One case of a batch."""

    case: dict[str, Any]
    names: Names
    objects: list[Object]
    """As they are on the lab, the mesh-wide ones left out."""

    def original(self, live: str | None) -> str | None:
        """`namespace/name` on the lab, as the case writes it."""
        if live is None:
            return None
        where, _, name = live.partition("/")
        prefix = self.names.prefix
        return f"{where.removeprefix(prefix)}/{name.removeprefix(prefix)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Cases of the same mesh."""

    mesh: dict[str, Any]
    wide: list[Object]
    """What counts for all the cases."""
    parts: list[Part]

    @property
    def root(self) -> str:
        """The root namespace."""
        return root_of(self.mesh)

    @property
    def objects(self) -> list[Object]:
        """Everything, as it is on the lab."""
        return [*self.wide, *(one for part in self.parts for one in part.objects)]


def root_of(mesh: dict[str, Any]) -> str:
    """The root namespace of a case."""
    return str(mesh.get("rootNamespace", ROOT_NAMESPACE))


def _place(item: Object) -> str:
    meta = item["metadata"]
    return str(meta["name"] if item["kind"] == "Namespace" else meta["namespace"])


def is_wide(item: Object, root: str) -> bool:
    """Whether an object counts for more than the namespaces of its case."""
    if _place(item) != root:
        return False
    spec = item.get("spec", {})
    if item["kind"] == "DestinationRule":
        return spec["host"] in {"*", "*.local", "*.svc.cluster.local"}
    # one with a selector counts for nobody there
    return item["kind"] != "PeerAuthentication" or not spec.get("selector", {}).get("matchLabels")


def batches(cases: list[dict[str, Any]]) -> Iterator[Batch]:
    """Put cases, whose ids differ, together by mesh settings and mesh-wide objects."""
    groups: dict[str, list[Part]] = {}
    for case in cases:
        root = root_of(case["mesh"])
        own = frozenset(_place(one) for one in case["objects"]) - {root}
        names = Names(prefix=f"{case['id'].lower()}-", own=own)
        wide = [one for one in case["objects"] if is_wide(one, root)]
        rest = [names.live(one) for one in case["objects"] if not is_wide(one, root)]
        key = json.dumps([case["mesh"], wide], sort_keys=True)
        groups.setdefault(key, []).append(Part(case=case, names=names, objects=rest))
    for key, parts in groups.items():
        mesh, wide = json.loads(key)
        for start in range(0, len(parts), _MOST_CASES):
            chosen = parts[start : start + _MOST_CASES]
            yield Batch(mesh=mesh, wide=copy.deepcopy(wide), parts=chosen)
