"""What a preview changes, object by object, and the objects before and after it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import yaml

from review import helm
from review.manifests import Change, Difference, Key, Object, compare
from review.objects import Declared, Side, contents, inside, plain, shown
from review.preview import (
    RELEASE,
    Document,
    Op,
    Resource,
    Step,
    hidden_paths,
    hide,
    items,
    mapping,
    releases,
)
from tlscheck.stack import HIDDEN

SHORTEST_SECRET = 6
"""Characters of a secret that is looked for in other texts: shorter ones are words of their own."""
LOST = {
    "Namespace": "with everything in it",
    "CustomResourceDefinition": "with every object of that kind",
    "PersistentVolumeClaim": "with its data",
    "PersistentVolume": "with its data",
}
"""Kinds that take with them what no update brings back."""
PROVIDER = "pulumi:providers:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """What happens to one object, or to a resource that is none."""

    op: Op
    change: Change
    """Both sides of it, without secrets."""
    release: str = ""
    """The release it is in; "" for what the program declares itself."""
    reasons: tuple[str, ...] = ()
    """Properties for which it must be replaced."""
    differs: tuple[str, ...] = ()
    """Properties that Pulumi says differ, hidden ones included."""
    protected: bool = False
    """Pulumi refuses to delete it."""

    @property
    def stays(self) -> bool:
        """Whether Helm leaves it behind because of its resource policy."""
        return self.change.sign == "="

    @property
    def loses(self) -> str:
        """What goes with it for good; "" if nothing does."""
        gone = self.op in {Op.DELETE, Op.REPLACE} and not self.stays
        return LOST.get(self.change.key.kind, "") if gone else ""


@dataclass(kw_only=True)
class Compared:
    """A preview, taken apart."""

    listed: list[Listed] = field(default_factory=list)
    before: list[Declared] = field(default_factory=list)
    after: list[Declared] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Releases that could not be rendered, with the reason: their objects are on neither side."""


def take_apart(document: Document, source: helm.Source) -> Compared:
    """What a preview changes, in the order of its steps.

    Raises:
        BadInputError: A release is incomplete, or helm is missing.
    """
    found = Compared()
    steps = {step.urn: step for step in releases(document)}
    manifests: dict[str, tuple[list[Declared], list[Declared]]] = {}
    for urn, step in steps.items():
        said: list[str] = []
        try:
            old = inside(step, contents(step, Side.BEFORE, source, said))
            same = step.op is Op.SAME
            new = old if same else inside(step, contents(step, Side.AFTER, source, said))
        except (helm.RenderError, yaml.YAMLError) as error:
            found.failed.append(f"release {step.release.name} cannot be rendered: {_line(error)}")
            old, new = [], []
        manifests[urn] = old, new
        found.notes += [f"release {step.release.name}: {text}" for text in said]
        if step.hidden and step.op is not Op.SAME:
            text = f"values not rendered, secret or not known: {', '.join(step.hidden)}"
            found.notes.append(f"release {step.release.name}: {text}")
    for one in document.resources:
        old, new = manifests.get(one.urn, ([], []))
        found.before += old or filter(None, [plain(one, Side.BEFORE)])
        found.after += new or filter(None, [plain(one, Side.AFTER)])
    secrets = Redactor.of(document, [*found.before, *found.after])
    found.before = [secrets.declared(one) for one in found.before]
    found.after = [secrets.declared(one) for one in found.after]
    own = [
        {one.urn: one for one in side if not one.release} for side in (found.before, found.after)
    ]
    for one in document.resources:
        if one.op is not Op.SAME and one.custom:
            found.listed.append(_resource(one, own[0].get(one.urn), own[1].get(one.urn), secrets))
        if one.urn in steps and one.op is not Op.SAME:
            found.listed += _contents(steps[one.urn], found)
    return found


def _resource(
    one: Resource, before: Declared | None, after: Declared | None, secrets: Redactor
) -> Listed:
    """The resource itself."""
    known = after or before
    if known:
        key = known.key
        old, new = (side.item if side else {} for side in (before, after))
    else:
        key = _key(one)
        old, new = (_inputs(one, side, secrets) for side in Side)
    changes = compare({key: old} if old else {}, {key: new} if new else {}).changes
    change = changes[0] if changes else Change(sign="~", key=key, old={}, new={})
    if known and one.type.endswith("Patch"):
        key = key._replace(kind=f"{key.kind}Patch")
    return Listed(
        op=one.op,
        # a resource policy is Helm's, and Pulumi does not know it
        change=replace(change, key=key, sign=change.sign.replace("=", "-")),
        reasons=one.reasons,
        differs=one.differs,
        protected=one.old is not None and one.old.protect,
    )


def _key(one: Resource) -> Key:
    """A resource that is no Kubernetes object, or a release."""
    state = one.new or one.old
    if one.type == RELEASE and state:
        space = str(state.inputs.get("namespace") or "default")
        return Key("helm.sh", "Release", space, str(state.inputs.get("name")))
    if one.type.startswith(PROVIDER):
        return Key("pulumi", "Provider", "", one.name)
    return Key(one.type.partition(":")[0], one.type.rpartition(":")[2], "", one.name)


def _inputs(one: Resource, side: Side, secrets: Redactor) -> Object:
    state = one.old if side is Side.BEFORE else one.new
    if state is None:
        return {}
    # a kubeconfig may hold the keys to a cluster, secret to Pulumi or not
    provider = one.type.startswith(PROVIDER)
    hidden = frozenset({("kubeconfig",)}) if provider else frozenset[tuple[str, ...]]()
    inputs = mapping(hide(shown(one, side), hidden))
    return mapping(secrets.clean(inputs)) or {"inputs": "none"}


def _contents(step: Step, found: Compared) -> Iterator[Listed]:
    """What is in a release."""
    old, new = (
        {one.key: one.item for one in side if one.urn == step.urn and one.release}
        for side in (found.before, found.after)
    )
    difference = compare(old, new)
    _relabelled(step, difference, found)
    changed = {change.key for change in difference.changes}
    for change in difference.changes:
        op = {"~": Op.UPDATE, "+": Op.CREATE}.get(change.sign, Op.DELETE)
        both = step.op is Op.REPLACE and op is Op.UPDATE
        yield Listed(op=Op.REPLACE if both else op, change=change, release=step.release.name)
    if step.op is Op.REPLACE:
        for key in sorted((old.keys() & new.keys()) - changed):
            change = Change(sign="~", key=key, old=old[key], new=old[key])
            listed = Listed(op=Op.REPLACE, change=change, release=step.release.name)
            if listed.loses:
                yield listed
        note = "every object is deleted and made again, unchanged ones too"
        found.notes.append(f"release {step.release.name}: {note}")


def _relabelled(step: Step, difference: Difference, found: Compared) -> None:
    if difference.relabelled:
        texts = ", ".join(f"{text} on {n}" for text, n in sorted(difference.labels.items()))
        counted = f"{difference.relabelled} objects with new version labels only: {texts}"
        found.notes.append(f"release {step.release.name}: {counted}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class Redactor:
    """Takes known secrets out of everything that is shown."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {text for text in secrets if len(text) >= SHORTEST_SECRET}
        known |= {base64.b64encode(text.encode()).decode() for text in known}
        # the longest first: one may be a part of another
        found = sorted(known, key=lambda text: (-len(text), text))
        self._known = re.compile("|".join(map(re.escape, found))) if found else None

    @classmethod
    def of(cls, document: Document, declared: Iterable[Declared]) -> Redactor:
        """Of what Secrets hold, and of what the CLI hides on one side only."""
        secrets: list[str] = []
        for one in declared:
            if one.key.kind == "Secret":
                secrets += _strings(one.item.get("stringData"))
                for text in _strings(one.item.get("data")):
                    secrets += [text, *_decoded(text)]
        for resource in document.resources:
            sides = [side.inputs for side in (resource.old, resource.new) if side]
            hidden = frozenset[tuple[str, ...]]().union(
                *(hidden_paths(side, HIDDEN[:1]) for side in sides)
            )
            for side in sides if hidden else ():
                secrets += _at(side, hidden)
        return cls(text for text in secrets if text not in HIDDEN)

    def declared(self, one: Declared) -> Declared:
        """The object without secrets, but for the values of a Secret: those are compared first."""
        own = {}
        if one.key.kind == "Secret":
            own = {key: one.item[key] for key in ("data", "stringData") if key in one.item}
        return replace(one, item=mapping(self.clean(one.item)) | own) if self._known else one

    def clean(self, value: object) -> object:
        """The value without secrets."""
        if self._known is None:
            return value
        if isinstance(value, str):
            return self._known.sub("[hidden]", value)
        if isinstance(value, list):
            return [self.clean(item) for item in value]
        if isinstance(value, dict):
            return {self.clean(key): self.clean(item) for key, item in value.items()}
        return value


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in [*mapping(value).values(), *items(value)]:
        yield from _strings(item)


def _decoded(text: str) -> Iterator[str]:
    try:
        yield base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return


def _at(
    value: object, hidden: frozenset[tuple[str, ...]], here: tuple[str, ...] = ()
) -> Iterator[str]:
    """The texts at these paths."""
    if here in hidden:
        yield from _strings(value)
        return
    for item in items(value):
        yield from _at(item, hidden, (*here, "*"))
    for key, item in mapping(value).items():
        yield from _at(item, hidden, (*here, key))
