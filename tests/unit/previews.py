"""Previews as the CLI writes them, with a helm and a kubectl that are played."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from review import helm

Json = dict[str, Any]
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


def config_map(name: str, text: object, kind: str = "ConfigMap") -> str:
    """One object, as a document of a manifest."""
    meta = {"name": name, "namespace": "istio-system"}
    item = {"apiVersion": "v1", "kind": kind, "metadata": meta, "data": {"key": text}}
    return "---\n" + json.dumps(item) + "\n"


def crd(name: str, *, keep: bool = False, text: str = "") -> str:
    meta: Json = {"name": name}
    if keep:
        meta["annotations"] = {"helm.sh/resource-policy": "keep"}
    item = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    return "---\n" + json.dumps(item | {"metadata": meta, "spec": {"text": text}}) + "\n"


def rendered(values: Json) -> str:
    """A chart of two objects: one shows the value `a`, one never changes."""
    return config_map("shown", values.get("a")) + config_map("fixed", "x")


class Tools:
    """Plays helm, kubectl and a post-renderer, and remembers how it was called."""

    def __init__(
        self,
        *,
        live: str | None = None,
        chart: Callable[[Json], str] = rendered,
        failing: str = "",
        error: str = "",
        missing: str = "",
        version: str = "v1.36.2",
    ) -> None:
        self.calls: list[list[str]] = []
        self.stdin: list[str] = []
        self.live, self.chart, self.version = live, chart, version
        self.failing, self.error, self.missing = failing, error, missing

    def __call__(self, argv: Sequence[str], stdin: str) -> helm.Done:
        self.calls.append(list(argv))
        self.stdin.append(stdin)
        return helm.Done(argv, *self._answer(" ".join(argv), stdin))

    def _answer(self, line: str, stdin: str) -> tuple[int, str, str]:
        if line.split(maxsplit=1)[0] == self.missing:
            return 127, "", "not there"
        if self.failing and line.startswith(self.failing):
            return 1, "", self.error
        answers = {
            "kubectl version": json.dumps({"serverVersion": {"gitVersion": self.version}}),
            "helm get": self.live or "",
            "helm template": line.startswith("helm template") and self.chart(json.loads(stdin)),
        }
        found = next((text for start, text in answers.items() if line.startswith(start)), None)
        if line.startswith("helm get") and self.live is None:
            return 1, "", "Error: release: not found"
        return 0, stdin.replace("unrefined", "refined") if found is None else str(found), ""

    def ran(self, command: str) -> list[list[str]]:
        return [call for call in self.calls if " ".join(call).startswith(command)]


def state(name: object = "istiod", **inputs: object) -> Json:
    urn = f"urn:pulumi:dev::service-mesh::kubernetes:helm.sh/v3:Release::{name}"
    inputs = {"name": name, "chart": "istiod", "namespace": "istio-system", "values": {}} | {
        "repositoryOpts": {"repo": "https://charts.example"},
        **inputs,
    }
    return {"type": "kubernetes:helm.sh/v3:Release", "urn": urn, "inputs": inputs}


def step(op: str, old: Json | None, new: Json | None) -> Json:
    sides = {"oldState": old, "newState": new}
    urn = (new or old or {})["urn"]
    return {"op": op, "urn": urn} | {side: value for side, value in sides.items() if value}


def update(old: Json, new: Json, **inputs: object) -> Json:
    return step("update", state(**inputs | {"values": old}), state(**inputs | {"values": new}))


STACK = {"op": "same", "urn": "urn:stack", "newState": {"type": "pulumi:pulumi:Stack"}}


def resource(
    op: str,
    token: str,
    old: Mapping[str, Any] | None = None,
    new: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    state: Mapping[str, Any] | None = None,
    **fields: object,
) -> Json:
    """A step of any resource, from its inputs before and after."""
    meta = (new or old or {}).get("metadata")
    known = meta.get("name") if isinstance(meta, dict) else None
    urn = f"urn:pulumi:dev::service-mesh::{token}::{name or known}"
    sides = {
        side: {"type": token, "urn": urn, "custom": True, "inputs": inputs, **(state or {})}
        for side, inputs in (("oldState", old), ("newState", new))
        if inputs is not None
    }
    return {"op": op, "urn": urn, **sides, **fields}


def same(token: str, inputs: Mapping[str, Any], **more: Any) -> Json:
    """A step of a resource that stays as it is."""
    return resource("same", token, inputs, inputs, **more)


def meta(name: str, namespace: str = "", **more: object) -> Json:
    """An object's metadata."""
    return {"name": name, **({"namespace": namespace} if namespace else {}), **more}


CORE, APPS = "kubernetes:core/v1:", "kubernetes:apps/v1:"
POLICY = "kubernetes:security.istio.io/v1:PeerAuthentication"
RULE = "kubernetes:networking.istio.io/v1:DestinationRule"


def deployment(
    name: str,
    namespace: str = "shop",
    *,
    image: str = "example/app:1.0",
    labels: Mapping[str, str] | None = None,
) -> Json:
    """A workload that keeps to the guard rails, as inputs."""
    rights = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container: Json = {
        "name": "app",
        "image": image,
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"memory": "64Mi"},
        },
        "securityContext": rights,
    }
    own = {"app": name, **(labels or {})}
    template = {"metadata": {"labels": own}, "spec": {"containers": [container]}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    return {"metadata": meta(name, namespace), "spec": spec}


def service(name: str, namespace: str = "shop") -> Json:
    """A service in front of that workload, as inputs."""
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    return {"metadata": meta(name, namespace), "spec": {"selector": {"app": name}, "ports": ports}}


def peer_authentication(mode: object, name: str = "default", namespace: str = "shop") -> Json:
    """What the workloads of a namespace accept, as inputs."""
    notes = {"service-mesh/reason": "to be seen", "service-mesh/expires": "2999-12-31"}
    return {
        "metadata": meta(name, namespace, annotations=notes),
        "spec": {"mtls": {"mode": mode}},
    }


def shop() -> list[Json]:
    """Steps of two workloads with sidecars, a and b, that stay as they are."""
    labels = {"istio-injection": "enabled"}
    return [
        same(f"{CORE}Namespace", {"metadata": meta("shop", labels=labels)}),
        *(same(f"{APPS}Deployment", deployment(name)) for name in "ab"),
        *(same(f"{CORE}Service", service(name)) for name in "ab"),
    ]
