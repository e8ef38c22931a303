"""Reads out of `pulumi preview --json` what happens to each Helm release."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

HIDDEN = ("[secret]", "04da6b54-80e4-46f7-96ec-b56ff0331ba9")
"""What the CLI prints for a secret, and for a value that only `pulumi up` will know."""
HOW = "make it with `pulumi preview --json --show-sames`"
KeyPath = tuple[str, ...]
"""Keys down to a value; every item of a list is "*", as lists of two sides may differ in length."""


class BadInputError(Exception):
    """The review cannot be made; the message is one line that says why and what helps."""


class Op(StrEnum):
    """What `pulumi up` does to a release. Of several steps for one URN the first here counts."""

    REPLACE = "replace"
    CREATE = "first install"
    UPDATE = "update"
    DELETE = "uninstall"
    SAME = "same"


OPS = {"replace": Op.REPLACE, "create-replacement": Op.REPLACE, "delete-replaced": Op.REPLACE}
OPS |= {"create": Op.CREATE, "update": Op.UPDATE, "delete": Op.DELETE, "same": Op.SAME}


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


def parse(text: str) -> list[Step]:
    """The releases of a preview, in the order of its steps.

    Raises:
        BadInputError: It is no preview, the preview itself failed, or a release is incomplete.
    """
    try:
        document = mapping(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"the preview is not JSON ({error}); {HOW}") from error
    for diagnostic in map(mapping, items(document.get("diagnostics"))):
        if diagnostic.get("severity") == "error":
            message = " ".join(str(diagnostic.get("message")).split())
            raise BadInputError(f"the preview itself failed: {message}")
    if not items(document.get("steps")):
        raise BadInputError(f"the preview has no steps; {HOW}")
    by_urn: dict[str, list[dict[str, object]]] = {}
    for step in map(mapping, items(document["steps"])):
        state = mapping(step.get("newState") or step.get("oldState"))
        if state.get("type") == "kubernetes:helm.sh/v3:Release" and step.get("op") in OPS:
            by_urn.setdefault(str(step.get("urn")), []).append(step)
    return [_merged(urn, steps) for urn, steps in by_urn.items()]


def _merged(urn: str, steps: list[dict[str, object]]) -> Step:
    """One step of the several that a replacement has."""
    op = min((OPS[str(step["op"])] for step in steps), key=list(Op).index)
    old, new = (
        next((mapping(mapping(step[side]).get("inputs")) for step in steps if step.get(side)), {})
        for side in ("oldState", "newState")
    )
    hidden = _hidden(old.get("values")) | _hidden(new.get("values"))
    return Step(
        op=op,
        old=None if op is Op.CREATE else _inputs(urn, old, hidden),
        new=None if op is Op.DELETE else _inputs(urn, new, hidden),
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
        values=_hide(inputs.get("values") or {}, hidden),
    )


def _hidden(values: object, here: KeyPath = ()) -> frozenset[KeyPath]:
    """Where in a tree of values the CLI has hidden one."""
    if values in HIDDEN:
        return frozenset({here})
    children = [*mapping(values).items(), *(("*", item) for item in items(values))]
    return frozenset().union(*(_hidden(child, (*here, key)) for key, child in children))


def _hide(values: object, hidden: frozenset[KeyPath], here: KeyPath = ()) -> object:
    """The same tree with `[hidden]` at each of these paths that it has."""
    if here in hidden:
        return "[hidden]"
    if isinstance(values, list):
        return [_hide(item, hidden, (*here, "*")) for item in values]
    if isinstance(values, dict):
        return {key: _hide(item, hidden, (*here, key)) for key, item in values.items()}
    return values
