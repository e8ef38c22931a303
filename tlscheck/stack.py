"""Objects of a Pulumi program: of its state, or as they will be after a previewed update."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tlscheck.documents import BadInputError, items, mapping, printable
from tlscheck.sources import Found, Json

ENVELOPE = "4dabf18193072939515e22adb298388d"
"""The key that marks a secret in Pulumi's documents."""
HIDDEN = ("[secret]", "04da6b54-80e4-46f7-96ec-b56ff0331ba9")
"""What the CLI prints for a secret, and for a value that only `pulumi up` will know."""
TYPE = re.compile(r"kubernetes:(?:([^/:]+)/)?(v[^:/]+):(\w+)|kubernetes:(yaml|kustomize)[:/].*")
STACK = "pulumi:pulumi:Stack"
ISTIOD = re.compile(r"(?:.*/)?(?:istiod|istio-discovery)(?:-\d[^/]*\.tgz)?/?", re.DOTALL)
"""Names of istiod's chart: in a repository, an archive, and the folder in Istio's sources."""
KEPT = {"same", "read", "refresh", "read-replacement"}
MADE = {"create", "update", "replace", "create-replacement", "import", "import-replacement"}
NOT_YET = "9999-01-01T00:00:00Z"
"""The age of an object that a preview creates: younger than every one that exists."""


def read_state(found: Found, text: bytes) -> None:
    """Take the Kubernetes objects of `pulumi stack export`.

    Raises:
        BadInputError: It is no export.
    """
    resources = mapping(mapping(_json(text)).get("deployment")).get("resources")
    if not isinstance(resources, list):
        raise BadInputError("no `deployment.resources`; make it with `pulumi stack export`")
    live = [r for r in map(mapping, resources) if not r.get("delete")]
    _resources(found, [(r, mapping(r.get("outputs")) or mapping(r.get("inputs"))) for r in live])


def read_preview(found: Found, text: bytes) -> None:
    """Take the Kubernetes objects as they will be after the update that was previewed.

    Raises:
        BadInputError: It is no preview, or the preview itself failed.
    """
    document = mapping(_json(text))
    for said in map(mapping, items(document.get("diagnostics"))):
        if said.get("severity") == "error":
            raise BadInputError(f"the preview itself failed: {printable(said.get('message'))}")
    if not isinstance(document.get("steps"), list):
        raise BadInputError("no `steps`; make it with `pulumi preview --json --show-sames`")
    steps = [mapping(step) for step in document["steps"]]
    states: dict[str, tuple[Json, Json]] = {}
    for step in steps:
        state = mapping(step.get("newState"))
        inputs, outputs = mapping(state.get("inputs")), mapping(state.get("outputs"))
        op = str(step.get("op"))
        if op in KEPT:
            states[str(step.get("urn"))] = state, outputs or inputs
        elif op in MADE:
            # the inputs say what will be; its name and age are only in what the provider answered
            known = {"name": mapping(outputs.get("metadata")).get("name")}
            old = mapping(mapping(mapping(step.get("oldState")).get("outputs")).get("metadata"))
            known["creationTimestamp"] = NOT_YET
            if op == "update" and "creationTimestamp" in old:
                known["creationTimestamp"] = old["creationTimestamp"]
            meta = {k: v for k, v in known.items() if v} | mapping(inputs.get("metadata"))
            states[str(step.get("urn"))] = state, inputs | {"metadata": meta}
    # of a new stack, or an emptied one, the preview makes everything: nothing can be missing
    whole = any(
        step.get("op") == "same"
        or (step.get("op") == "create" and mapping(step.get("newState")).get("type") == STACK)
        for step in steps
    )
    if steps and not whole:
        why = "nothing in it stays the same; made without --show-sames it lacks those objects"
        found.note("PREVIEW_PARTIAL", "preview", why)
    _resources(found, states.values())


def _json(text: bytes) -> object:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise BadInputError("nested too deep") from error
    except ValueError as error:
        raise BadInputError(f"not JSON: {error}") from error


def _resources(found: Found, resources: Iterable[tuple[Json, Json]]) -> None:
    made: list[Json] = []
    patches: list[Json] = []
    for state, properties in resources:
        token = TYPE.fullmatch(str(state.get("type")))
        group, version, kind = token.groups()[:3] if token else (None, None, None)
        if (group, kind) == ("helm.sh", "Release"):
            # the name may be one that the provider made up
            _release(found, mapping(state.get("outputs")) | mapping(state.get("inputs")))
        if not kind or group == "helm.sh" or kind == "Secret":
            continue
        hidden: list[str] = []
        item = mapping(_clean({k: v for k, v in properties.items() if k[:2] != "__"}, "", hidden))
        item.setdefault("apiVersion", version if group in (None, "core") else f"{group}/{version}")
        item.setdefault("kind", kind.removesuffix("Patch"))
        if hidden:
            text = f"secret, or known only after the update: {', '.join(sorted(hidden))}"
            found.note("VALUE_UNKNOWN", f"{kind} {'/'.join(_key(item)[2:])}", text)
        if not {"metadata", "metadata.name", "metadata.namespace"} & set(hidden):
            (patches if kind.endswith("Patch") else made).append(item)
    by_key = {_key(item): item for item in made}
    for patch in patches:
        _merge(by_key.setdefault(_key(patch), patch), patch)
    found.objects += made + [item for item in by_key.values() if item in patches]


def _key(item: Json) -> tuple[str, str, str, str]:
    """Group, kind, namespace and name."""
    group, _, version = str(item.get("apiVersion")).rpartition("/")
    meta = mapping(item.get("metadata"))
    namespace = "" if item.get("kind") == "Namespace" else meta.get("namespace") or "default"
    return group and version and group, str(item.get("kind")), str(namespace), str(meta.get("name"))


def _merge(target: Json, patch: Json) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _clean(value: object, path: str, hidden: list[str]) -> object:
    """The value without its secrets and unknowns, whose paths are noted."""
    if isinstance(value, dict):
        if ENVELOPE in value:
            hidden.append(path)
            return None
        joined = {key: f"{path}.{key}" if path else key for key in value}
        cleaned = {key: _clean(item, joined[key], hidden) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item is not None}
    if isinstance(value, list):
        return [_clean(item, f"{path}[{at}]", hidden) for at, item in enumerate(value)]
    if value in HIDDEN:
        hidden.append(path)
        return None
    return value


def _release(found: Found, inputs: Json) -> None:
    """Say what is not seen of a Helm release; of istiod's, its values hold the mesh's settings."""
    namespace, name = (printable(inputs.get(k) or "default") for k in ("namespace", "name"))
    text = (
        "Pulumi's documents lack what a Helm release installs: its pods, services and policies "
        f"are not judged; `helm get manifest -n {namespace} {name}` gives them, to add with -f"
    )
    found.note("HELM_RELEASE", f"Release {namespace}/{name}", text)
    if not ISTIOD.fullmatch(str(inputs.get("chart"))):
        return
    values = mapping(_clean(inputs.get("values"), "", []))
    root = mapping(values.get("global")).get("istioNamespace")
    found.mesh = ({"rootNamespace": root} if root else {}) | mapping(values.get("meshConfig"))
    env = mapping(mapping(values.get("pilot")).get("env"))
    on = env.get("PILOT_ENABLE_AMBIENT", values.get("profile") == "ambient")
    found.ambient = str(on).lower() == "true"
