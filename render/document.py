"""The document of a preview, as `pulumi preview --json --show-sames` has it, without the engine.

Only what objects tell is in it: which resource is new, goes, stays or differs, and where. Whether a
provider would replace it is known for what makes it another object, its name and its namespace.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from render.program import Recorded, State

Document = dict[str, object]
"""JSON of the CLI's shape; `review` and `tlscheck` read it."""

_IDENTITY = frozenset({"metadata.name", "metadata.namespace"})
_RELEASE = "kubernetes:helm.sh/v3:Release"
_RELEASE_IDENTITY = frozenset({"name", "namespace"})
_QUOTED = re.compile(r'[."\[\]]')


def document(after: Recorded, before: Recorded | None = None) -> Document:
    """The steps from one run of a program to another, or to its first installation.

    Args:
        after: The program as it is.
        before: The program as it was; None = nothing is there, and all steps are `create`.
    """
    old = dict(before.states) if before else {}
    steps = []
    for state in after.states.values():
        known = (urn for urn in (state.urn, *state.aliases) if urn in old)
        steps.append(_step(old.pop(next(known, ""), None), state))
    steps += [_step(state, None) for state in old.values()]
    return {
        "steps": steps,
        "diagnostics": [dict(said) for said in after.diagnostics],
        "changeSummary": dict(sorted(Counter(str(step["op"]) for step in steps).items())),
    }


def _step(old: State | None, new: State | None) -> dict[str, object]:
    found = {"oldState": old, "newState": new}
    step: dict[str, object] = {"urn": (new or old).urn}  # type: ignore[union-attr] # one is there
    step |= {side: _written(state) for side, state in found.items() if state}
    if not new or not old:
        return {"op": "create" if new else "delete", **step}
    changed = dict(_differences(old.inputs, new.inputs))
    identity = _RELEASE_IDENTITY if new.type == _RELEASE else _IDENTITY
    kubernetes = new.type.startswith("kubernetes:")
    replacing = sorted(identity & changed.keys()) if kubernetes else []
    return {
        "op": "replace" if replacing else "update" if changed else "same",
        **step,
        "detailedDiff": {
            path: {"kind": f"{kind}-replace" if path in replacing else kind, "inputDiff": True}
            for path, kind in sorted(changed.items())
        },
        "diffReasons": sorted(
            key
            for key in {**old.inputs, **new.inputs}
            if old.inputs.get(key) != new.inputs.get(key)
        ),
        "replaceReasons": replacing,
    }


def _written(state: State) -> dict[str, object]:
    fields = ("urn", "type", "custom", "parent", "protect")
    sides = {"inputs": dict(state.inputs), "outputs": dict(state.outputs)}
    return {field: getattr(state, field) for field in fields} | {
        k: v for k, v in sides.items() if v
    }


def _differences(old: object, new: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Where two values differ, in the CLI's notation of paths, and how."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            quoted = key.replace("\\", "\\\\").replace('"', '\\"')
            # a dot in a key, as labels have, is no step down
            step = f'["{quoted}"]' if _QUOTED.search(key) else f".{key}" if path else key
            yield from _one(old, new, key, f"{path}{step}")
    elif isinstance(old, list) and isinstance(new, list):
        before, after = dict(enumerate(old)), dict(enumerate(new))
        for index in range(max(len(old), len(new))):
            yield from _one(before, after, index, f"{path}[{index}]")
    elif old != new:
        yield path, "update"


def _one(
    old: Mapping[Any, object], new: Mapping[Any, object], key: object, path: str
) -> Iterator[tuple[str, str]]:
    if key not in old or key not in new:
        yield path, "add" if key in new else "delete"
    else:
        yield from _differences(old[key], new[key], path)
