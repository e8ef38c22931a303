"""Reads out of `pulumi preview --json` what happens to each resource, Helm releases among them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tlscheck.stack import HIDDEN

HOW = "make it with `pulumi preview --json --show-sames`"
LONE = re.compile(r"\\u[dD][89a-fA-F]")
"""Where half a character may be: nothing can write such a text."""
KeyPath = tuple[str, ...]
"""Keys down to a value; every item of a list is "*", as lists of two sides may differ in length."""


class BadInputError(Exception):
    """The review cannot be made; the message is one line that says why and what helps."""


class PreviewFailedError(BadInputError):
    """The preview itself failed."""

    def __init__(self, messages: Sequence[str], names: tuple[str, str]) -> None:
        super().__init__(f"the preview itself failed: {' '.join(' '.join(messages).split())}")
        self.messages = messages
        """What the engine says, each as it said it."""
        self.names = names
        """The program's name and the stack's, as far as it came."""


class Op(StrEnum):
    """What `pulumi up` does to a resource. Of several steps for one URN the first here counts."""

    REPLACE = "replace"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    SAME = "same"


OPS = {"replace": Op.REPLACE, "create-replacement": Op.REPLACE, "delete-replaced": Op.REPLACE}
OPS |= {"import-replacement": Op.REPLACE, "create": Op.CREATE, "import": Op.CREATE}
OPS |= {"update": Op.UPDATE, "delete": Op.DELETE, "same": Op.SAME}
OPS |= {"read": Op.SAME, "refresh": Op.SAME, "read-replacement": Op.SAME}
RELEASE = "kubernetes:helm.sh/v3:Release"


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A resource before or after the update."""

    inputs: dict[str, object]
    outputs: dict[str, object]
    """Before the update what the provider answered; after it only what is known already."""
    protect: bool
    """Whether Pulumi refuses to delete it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One resource and what happens to it."""

    urn: str
    type: str
    """Pulumi's token, e.g. `kubernetes:apps/v1:Deployment`."""
    op: Op
    custom: bool
    """Whether a provider manages it; False: a component, that only holds others."""
    old: State | None
    new: State | None
    differs: tuple[str, ...]
    """Paths of the properties that change."""
    reasons: tuple[str, ...]
    """Paths of the properties for which it must be replaced."""

    @property
    def name(self) -> str:
        """Its name in Pulumi."""
        return self.urn.rpartition("::")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A preview."""

    resources: tuple[Resource, ...]
    """In the order of its steps, those that stay the same included."""
    config: dict[str, object]
    """The stack's settings by their full keys; empty where the preview does not say."""

    @property
    def names(self) -> tuple[str, str]:
        """The program's name and the stack's; "" where no resource says them."""
        # urn:pulumi:STACK::PROJECT::TYPE::NAME
        for one in self.resources:
            start, _, rest = one.urn.partition("::")
            project, _, rest = rest.partition("::")
            if start.startswith("urn:pulumi:") and rest:
                return project, start.removeprefix("urn:pulumi:")
        return "", ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The inputs of a Release that decide what Helm renders; "" is one that is not given."""

    name: str
    namespace: str
    chart: str
    version: str
    postrender: str
    repo: str
    skip_crds: bool
    values: object

    @property
    def folder(self) -> bool:
        """Whether the chart is on this machine: its content can change and its version stay."""
        return not self.repo and Path(self.chart).exists()


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One release and what happens to it."""

    urn: str
    op: Op
    old: Inputs | None
    new: Inputs | None
    hidden: tuple[str, ...]
    """Paths of the values that are secret or unknown; both sides hold the same text there."""

    @property
    def release(self) -> Inputs:
        """The release as it will be, or as it was when it goes."""
        return self.new or self.old  # type: ignore[return-value] # parse() gives every step one


def mapping(value: object) -> dict[str, object]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def parse(text: str) -> Document:
    """The resources of a preview.

    Raises:
        BadInputError: It is no preview, or has no steps.
        PreviewFailedError: The preview itself failed.
    """
    try:
        content = mapping(json.loads(text))
        if LONE.search(text):
            content = json.loads(json.dumps(content, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"the preview is not JSON ({error}); {HOW}") from error
    by_urn: dict[str, list[dict[str, object]]] = {}
    for step in map(mapping, items(content.get("steps"))):
        if str(step.get("op")) in OPS:
            by_urn.setdefault(str(step.get("urn")), []).append(step)
    document = Document(
        resources=tuple(_resource(urn, steps) for urn, steps in by_urn.items()),
        config=mapping(content.get("config")),
    )
    said = map(mapping, items(content.get("diagnostics")))
    failed = [str(one.get("message")) for one in said if one.get("severity") == "error"]
    if failed:
        raise PreviewFailedError(failed, document.names)
    if not items(content.get("steps")):
        raise BadInputError(f"the preview has no steps; {HOW}")
    return document


def _resource(urn: str, steps: list[dict[str, object]]) -> Resource:
    """One resource of the several steps that a replacement has."""
    op = min((OPS[str(step["op"])] for step in steps), key=list(Op).index)
    old, new = (
        next((mapping(step[side]) for step in steps if step.get(side)), {})
        for side in ("oldState", "newState")
    )
    return Resource(
        urn=urn,
        op=op,
        type=str((new or old).get("type")),
        custom=(new or old).get("custom") is not False,
        old=None if op is Op.CREATE else _state(old),
        new=None if op is Op.DELETE else _state(new),
        differs=tuple(sorted({str(p) for s in steps for p in mapping(s.get("detailedDiff"))})),
        reasons=tuple(sorted({str(p) for s in steps for p in items(s.get("replaceReasons"))})),
    )


def _state(state: dict[str, object]) -> State:
    return State(
        inputs=mapping(state.get("inputs")),
        outputs=mapping(state.get("outputs")),
        protect=state.get("protect") is True,
    )


def releases(document: Document) -> list[Step]:
    """The Helm releases of a preview, in the order of its steps.

    Raises:
        BadInputError: A release is incomplete.
    """
    return [_release(one) for one in document.resources if one.type == RELEASE]


def _release(one: Resource) -> Step:
    old, new = (side.inputs if side else {} for side in (one.old, one.new))
    hidden = hidden_paths(old.get("values")) | hidden_paths(new.get("values"))
    return Step(
        urn=one.urn,
        op=one.op,
        old=_inputs(one.urn, old, hidden) if one.old else None,
        new=_inputs(one.urn, new, hidden) if one.new else None,
        hidden=tuple(sorted(".".join(path) for path in hidden)),
    )


def _inputs(urn: str, inputs: dict[str, object], hidden: frozenset[KeyPath]) -> Inputs:
    if not inputs.get("name") or not inputs.get("chart"):
        raise BadInputError(f"release {urn} has no name or no chart; {HOW}")
    return Inputs(
        **{key: str(inputs.get(key) or "") for key in ("name", "chart", "version", "postrender")},
        namespace=str(inputs.get("namespace") or "default"),
        repo=str(mapping(inputs.get("repositoryOpts")).get("repo") or ""),
        skip_crds=inputs.get("skipCrds") is True,
        values=hide(inputs.get("values") or {}, hidden),
    )


def hidden_paths(
    values: object, marks: Sequence[str] = HIDDEN, here: KeyPath = ()
) -> frozenset[KeyPath]:
    """Where in a tree of values the CLI has hidden one."""
    if values in marks:
        return frozenset({here})
    children = [*mapping(values).items(), *(("*", item) for item in items(values))]
    found = (hidden_paths(child, marks, (*here, key)) for key, child in children)
    return frozenset().union(*found)


def hide(
    values: object, hidden: frozenset[KeyPath], here: KeyPath = (), *, text: str = "[hidden]"
) -> object:
    """The same tree with a text instead of the value at each of these paths that it has."""
    if here in hidden:
        return text
    if isinstance(values, list):
        return [hide(item, hidden, (*here, "*"), text=text) for item in values]
    if isinstance(values, dict):
        return {key: hide(item, hidden, (*here, key), text=text) for key, item in values.items()}
    return values
