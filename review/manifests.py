"""Splits manifests into objects and tells what differs between two of them."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import yaml

from review.preview import mapping

Object = dict[str, object]
NOISE = ("helm.sh/chart", "app.kubernetes.io/version")
"""Labels that change with the chart on every object. In a pod template they count: pods roll."""


class Key(NamedTuple):
    """What makes an object the same for Helm: not its API version, which may move on."""

    group: str
    kind: str
    namespace: str
    name: str

    @property
    def place(self) -> str:
        """Namespace, if it has one, and name."""
        return f"{self.namespace}/{self.name}".lstrip("/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What happens to one object. Values of a Secret are already hidden."""

    sign: str
    """`~` changed, `+` added, `-` deleted, `=` left behind because of its resource policy."""
    key: Key
    old: Object
    new: Object


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What differs between two manifests."""

    changes: tuple[Change, ...]
    labels: Counter[str]
    """Objects by what happens to their noise labels."""
    relabelled: int
    """Objects of which nothing but noise labels changes."""
    unchanged: int


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads as Kubernetes does: dates and a bare `=` are text."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes text of many lines as lines, so that a difference shows the one that changed."""


def _text(_: _Dumper, text: str) -> yaml.ScalarNode:
    if "\n" not in text:
        return yaml.ScalarNode("tag:yaml.org,2002:str", text)
    # YAML refuses block style for tabs and for blanks at the end of a line
    text = "\n".join(line.rstrip() for line in text.expandtabs(2).split("\n"))
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style="|")


_Dumper.add_representer(str, _text)
_Dumper.ignore_aliases = lambda *_: True
for _tag in ("timestamp", "value"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_yaml_str)


def split(manifest: str) -> dict[Key, Object]:
    """The objects of a manifest.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    objects: dict[Key, Object] = {}
    for item in filter(None, map(mapping, yaml.load_all(manifest, _Loader))):
        objects[key_of(item)] = item
    return objects


def key_of(item: Object) -> Key:
    """What makes this object the same."""
    group = str(item.get("apiVersion")).rpartition("/")[0]
    meta = mapping(item.get("metadata"))
    place = (str(meta.get("namespace") or ""), str(meta.get("name")))
    return Key(group, str(item.get("kind")), *place)


def _meta(item: Object, field: str) -> dict[str, object]:
    return mapping(mapping(item.get("metadata")).get(field))


def _hide(secret: Object, other: Object) -> Object:
    """A Secret without its values; only that one differs from the other side's is left to see."""
    hidden = dict(secret)
    for field in hidden.keys() & {"data", "stringData"}:
        if not isinstance(secret[field], dict):  # all of it is a secret of the CLI's
            hidden[field] = "[hidden]"
            continue
        ours, theirs = mapping(secret[field]), mapping(other.get(field))
        hidden[field] = {
            key: "[hidden]" if theirs.get(key, value) == value else "[hidden, differs]"
            for key, value in ours.items()
        }
    return hidden


def _quiet(item: Object) -> Object:
    """The object without noise labels."""
    labels = {key: text for key, text in _meta(item, "labels").items() if key not in NOISE}
    rest = {key: part for key, part in mapping(item.get("metadata")).items() if key != "labels"}
    return item | {"metadata": rest | ({"labels": labels} if labels else {})} if item else item


def compare(old: dict[Key, Object], new: dict[Key, Object]) -> Difference:
    """What turns the old objects into the new ones."""
    changes: list[Change] = []
    labels: Counter[str] = Counter()
    relabelled = unchanged = 0
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, {}), new.get(key, {})
        pairs = [(n, _meta(before, "labels").get(n), _meta(after, "labels").get(n)) for n in NOISE]
        noise = [f"{n} {was} -> {will}" for n, was, will in pairs if was != will]
        if before and after:
            labels.update(noise)
        before, after = _quiet(before), _quiet(after)
        if before == after:
            relabelled += bool(noise)
            unchanged += not noise
            continue
        keep = _meta(before, "annotations").get("helm.sh/resource-policy") == "keep"
        sign = "~" if before and after else "+" if after else "=" if keep else "-"
        if key.kind == "Secret":
            before, after = _hide(before, {}), _hide(after, before)
        changes.append(Change(sign=sign, key=key, old=before, new=after))
    return Difference(
        changes=tuple(changes), labels=labels, relabelled=relabelled, unchanged=unchanged
    )


def lines(item: Object) -> list[str]:
    """The object as YAML with sorted keys."""
    text = yaml.dump(item, Dumper=_Dumper, sort_keys=True, width=4096, allow_unicode=True)
    return str(text).splitlines() if item else []


def diff(change: Change) -> list[str]:
    """The lines that differ, with three of context and `@@` between distant ones."""
    found = difflib.unified_diff(lines(change.old), lines(change.new), lineterm="")
    return ["@@" if line.startswith("@@") else line for line in list(found)[3:]]
