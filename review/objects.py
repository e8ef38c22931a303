"""The Kubernetes objects of a previewed stack, those inside its Helm releases included."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import yaml

from review import helm
from review.manifests import Key, Object, key_of, split
from review.preview import (
    Document,
    Inputs,
    Op,
    Resource,
    State,
    Step,
    hidden_paths,
    hide,
    mapping,
    releases,
)
from tlscheck.stack import HIDDEN, TYPE


class Side(StrEnum):
    """When."""

    BEFORE = "before"
    """What is there now, as far as it is known without asking the cluster for every object."""
    AFTER = "after"
    """What there will be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """One Kubernetes object of the stack."""

    key: Key
    item: Object
    """A secret is `[secret]`, or `[hidden]` where a release hides it; an unknown is the CLI's."""
    urn: str
    """Of the resource that it is, or of the release that it is in."""
    release: str
    """Name of that release; "" for an object that the program declares itself."""
    created: str = ""
    """When the cluster made it; "" where that is not known."""

    @property
    def crd(self) -> bool:
        """Whether it is a definition of other objects: large, and nobody's workload."""
        return self.key.kind == "CustomResourceDefinition"


def declared(
    document: Document, side: Side, source: helm.Source, notes: list[str]
) -> list[Declared]:
    """The objects of one side, in the order of the preview's steps.

    Args:
        document: the preview.
        side: before or after the update.
        source: where Helm's manifests come from.
        notes: what was found out on the way is added to them.

    Raises:
        BadInputError: A release is incomplete, or helm is missing.
        RenderError: A release cannot be rendered.
    """
    steps = {step.urn: step for step in releases(document)}
    found: list[Declared] = []
    for one in document.resources:
        if step := steps.get(one.urn):
            said: list[str] = []
            try:
                manifest = contents(step, side, source, said)
            except (helm.RenderError, yaml.YAMLError) as error:
                raise helm.RenderError(f"release {step.release.name}: {error}") from error
            found += inside(step, manifest)
            notes += [f"release {step.release.name}: {text}" for text in said]
        elif (item := plain(one, side)) is not None:
            found.append(item)
    return found


def contents(step: Step, side: Side, source: helm.Source, notes: list[str]) -> dict[Key, Object]:
    """The objects of one release. One that stays as it is has the same on both sides.

    Raises:
        RenderError: They cannot be rendered.
        YAMLError: What was rendered is not YAML.
    """
    if side is Side.AFTER and step.op is not Op.SAME:
        return rendered(step, source)
    return before(step, source, notes)


def live(step: Step, source: helm.Source, notes: list[str]) -> dict[Key, Object] | None:
    """The objects that Helm says are in the cluster; None where it must not or cannot be asked.

    Raises:
        YAMLError: What it says is not YAML.
    """
    # the manifest in the cluster holds the secrets that the CLI hides: it must not be printed
    if step.old is None or not source.cluster or step.hidden:
        return None
    try:
        text = helm.live(source, step.old)
    except helm.RenderError as error:
        notes.append(f"its manifest cannot be read from the cluster: {error}")
        return None
    if text is None:
        notes.append("Pulumi's state has this release, the cluster does not")
    return split(text or "")


def before(step: Step, source: helm.Source, notes: list[str]) -> dict[Key, Object]:
    """The objects of a release that are there now.

    Raises:
        RenderError: The inputs of the last update cannot be rendered.
        YAMLError: What was rendered is not YAML.
    """
    if step.old is None:
        return {}
    if (found := live(step, source, notes)) is not None:
        return found
    if step.op is not Op.SAME:
        folder = ", with the chart folder as it is now" if step.old.folder else ""
        notes.append(f"compared with the inputs of the last update, rendered again{folder}")
    return _template(step.op, step.old, source)


def rendered(step: Step, source: helm.Source) -> dict[Key, Object]:
    """The objects that Helm would apply for a release.

    Raises:
        RenderError: They cannot be rendered.
        YAMLError: What was rendered is not YAML.
    """
    return _template(step.op, step.new, source) if step.new else {}


def _template(op: Op, release: Inputs, source: helm.Source) -> dict[Key, Object]:
    return split(helm.template(source, release, upgrade=op in {Op.UPDATE, Op.SAME}))


def inside(step: Step, manifest: dict[Key, Object]) -> list[Declared]:
    """The objects of a release's manifest."""
    name = step.release.name
    return [
        Declared(key=key, item=item, urn=step.urn, release=name) for key, item in manifest.items()
    ]


def plain(one: Resource, side: Side) -> Declared | None:
    """The object that a resource is on one side; None if it is none, or is not there.

    A `Patch` is the part of an object that it patches.
    """
    token = TYPE.fullmatch(one.type)
    group, version, kind = token.groups()[:3] if token else (None, None, None)
    state = one.old if side is Side.BEFORE else one.new
    if not kind or group == "helm.sh" or not one.custom or state is None:
        return None
    item = shown(one, side)
    api = version if group in {None, "core"} else f"{group}/{version}"
    answered = mapping(state.outputs.get("metadata"))
    meta = {key: answered[key] for key in ("name",) if answered.get(key)}
    item = {"apiVersion": api, "kind": kind.removesuffix("Patch")} | item
    item["metadata"] = meta | mapping(item.get("metadata"))
    return Declared(
        key=key_of(item),
        item=item,
        urn=one.urn,
        release="",
        created=_created(one, side),
    )


def shown(one: Resource, side: Side) -> dict[str, object]:
    """The inputs of a resource on one side, without what the provider keeps for itself.

    What is secret on either side is hidden on both: else its old text would be seen.
    """
    secret = frozenset[tuple[str, ...]]()
    for state in (one.old, one.new):
        secret |= hidden_paths(state.inputs, HIDDEN[:1]) if state else secret
    state = one.old if side is Side.BEFORE else one.new
    inputs = state.inputs if state else {}
    return mapping(hide({k: v for k, v in inputs.items() if k[:2] != "__"}, secret, text=HIDDEN[0]))


def _created(one: Resource, side: Side) -> str:
    """Only an object that is replaced, or made, gets a new age."""
    if side is Side.AFTER and one.op is Op.REPLACE:
        return ""
    states: list[State | None] = [one.old, one.new if one.op is Op.SAME else None]
    metas = [mapping(state.outputs.get("metadata")) for state in states if state]
    return next(
        (str(meta["creationTimestamp"]) for meta in metas if "creationTimestamp" in meta), ""
    )
