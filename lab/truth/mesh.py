"""A lab with nothing on it but istiod, and the objects of a batch of cases at a time."""

from __future__ import annotations

import copy
import json
import sys
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

import yaml

from lab.lifecycle import LabError
from lab.playground import Playground
from lab.stack import open_stack
from lab.truth.batch import ROOT_NAMESPACE, root_of

if TYPE_CHECKING:
    from lab.paths import LabPaths

Ports = dict[tuple[str, str, str, str], int]
"""Namespace, Service, name of its port, pod -> container port."""

_ACCOUNT = "case"
_OF_SERVICE = "kubernetes.io/service-name"
_SETTINGS = {"profile": "minimal", "bookinfo": "false", "mtlsScope": "namespace"}
_READY_WITHIN_S = 180
_INJECTION = ("istio-injection", "istio.io/rev")
_AGED = ("PeerAuthentication", "DestinationRule", "Sidecar")


def has_sidecar(pod: dict[str, Any]) -> bool:
    """Whether injection has stamped the pod."""
    return "sidecar.istio.io/status" in pod["metadata"].get("annotations", {})


class Istiod:
    """The lab's real istiod."""

    def __init__(self, paths: LabPaths) -> None:
        stack = open_stack("dev", paths)
        for key, value in _SETTINGS.items():
            stack.read(*stack.pulumi("config", "set", key, value))
        stack.read(*stack.pulumi("config", "rm", "mtlsHosts"))
        stack.read(*stack.pulumi("up", "--yes", "--skip-preview", "--non-interactive"))
        self._play = Playground(stack, paths)
        (pod,) = self._play.pods(ROOT_NAMESPACE, "app=istiod")
        self._address = f"{pod['status']['podIP']}:15010"
        self._mesh: dict[str, Any] = {}
        self._namespaces: set[str] = set()
        self._leaving: set[str] = set()

    def configure(self, mesh: dict[str, Any]) -> None:
        """Set what cases may set; istiod reads its ConfigMap again by itself."""
        wanted = {
            "enableAutoMtls": mesh.get("enableAutoMtls", True),
            "rootNamespace": root_of(mesh),
            "outboundTrafficPolicy": mesh.get("outboundTrafficPolicy", {"mode": "ALLOW_ANY"}),
        }
        if wanted == self._mesh:
            return
        words = ("-n", ROOT_NAMESPACE, "get", "configmap", "istio", "-o", "json")
        found = json.loads(self._play.kubectl(*words))
        settings = {**yaml.safe_load(found["data"]["mesh"]), **wanted}
        patch = json.dumps({"data": {"mesh": yaml.safe_dump(settings)}})
        self._play.kubectl("-n", ROOT_NAMESPACE, "patch", "configmap", "istio", "-p", patch)
        self._mesh = wanted
        time.sleep(3)

    def load(self, objects: list[dict[str, Any]]) -> dict[str, str]:
        """Create objects, oldest first; returns pod -> address.

        Raises:
            LabError: an object was refused, or a pod got no address.
        """
        live = [_live(one) for one in objects if one["kind"] != "Namespace"]
        wanted = {one["metadata"]["namespace"] for one in live} - {ROOT_NAMESPACE}
        places = {name: _namespace(name) for name in sorted(wanted)}
        places |= {
            one["metadata"]["name"]: _live(one) for one in objects if one["kind"] == "Namespace"
        }
        accounts = [_account(name) for name in sorted({*wanted, ROOT_NAMESPACE})]
        self._play.apply(*places.values(), *accounts)
        self._namespaces |= places.keys()
        aged = sorted((one for one in objects if one["kind"] in _AGED), key=_age)
        for number, (_, same) in enumerate(groupby(aged, key=_stamp)):
            if number:
                time.sleep(1.02 - time.time() % 1)  # ages are whole seconds
            self._create([_live(one) for one in same])
        self._create([one for one in live if one["kind"] not in _AGED])
        pods = {
            f"{one['metadata']['namespace']}/{one['metadata']['name']}"
            for one in live
            if one["kind"] == "Pod"
        }
        return self._addresses(pods)

    def unload(self, objects: list[dict[str, Any]], root: str) -> None:
        """Delete what is in the root namespace now, and the other namespaces by and by."""
        shared = [one for one in objects if one["metadata"].get("namespace") == root]
        if shared:
            items = {"apiVersion": "v1", "kind": "List", "items": shared}
            by_name = ("delete", "--ignore-not-found", "--grace-period=1", "-f", "-")
            self._play.kubectl(*by_name, stdin=json.dumps(items))
        if gone := self._namespaces - {root}:
            words = ("delete", "namespace", "--ignore-not-found", "--wait=false")
            self._play.kubectl(*words, *sorted(gone))
        self._leaving |= self._namespaces - {ROOT_NAMESPACE}
        self._namespaces = set()

    def finish(self) -> None:
        """Wait until the namespaces are gone."""
        if self._leaving:
            self._play.delete_namespaces(sorted(self._leaving))

    def ask(self, nodes: dict[str, Any]) -> dict[str, Any]:
        """What istiod sends to each of these proxies, once it says the same twice.

        Raises:
            LabError: the client failed, or the answers do not settle.
        """
        before: dict[str, Any] | None = None
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline:
            time.sleep(1)
            words = (sys.executable, "-m", "lab.truth.ads", self._address, json.dumps(nodes))
            process = self._play.on_node(*words)
            text = process.communicate()[0]
            if process.returncode:
                raise LabError(f"the ADS client failed ({process.returncode})")
            answer: dict[str, Any] = json.loads(text)
            if answer == before:
                return answer
            before = answer
        raise LabError("istiod's answers do not settle")

    def ports(self) -> Ports:
        """Where the API server's own endpoints say that service ports lead."""
        items = json.loads(self._play.kubectl("get", "endpointslices", "-A", "-o", "json"))["items"]
        return {
            (meta["namespace"], meta["labels"][_OF_SERVICE], port["name"], pod): port["port"]
            for one in items
            for meta in [one["metadata"]]
            for port in one.get("ports") or []
            if port.get("name") and _OF_SERVICE in meta.get("labels", {})
            for endpoint in one.get("endpoints") or []
            for pod in [endpoint.get("targetRef", {}).get("name")]
            if pod
        }

    def _create(self, objects: list[dict[str, Any]]) -> None:
        if objects:
            items = {"apiVersion": "v1", "kind": "List", "items": objects}
            self._play.kubectl("create", "-f", "-", stdin=json.dumps(items))

    def _addresses(self, names: set[str]) -> dict[str, str]:
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline:
            pods = json.loads(self._play.kubectl("get", "pods", "-A", "-o", "json"))["items"]
            found = {
                f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": pod["status"]["podIP"]
                for pod in pods
                if pod["status"].get("podIP") and pod["status"].get("phase") == "Running"
            }
            if names <= found.keys():
                return {name: found[name] for name in names}
            time.sleep(0.3)
        raise LabError(f"pods without an address: {', '.join(sorted(names - found.keys()))}")


def node(pod: dict[str, Any], address: str) -> dict[str, Any]:
    """What the pod's sidecar says of itself."""
    meta = pod["metadata"]
    name, namespace = meta["name"], meta["namespace"]
    metadata = {
        "NAMESPACE": namespace,
        "NAME": name,
        "LABELS": meta.get("labels", {}),
        "SERVICE_ACCOUNT": _ACCOUNT,
        "CLUSTER_ID": "Kubernetes",
        "ISTIO_VERSION": "1.31.0",
        "INTERCEPTION_MODE": "REDIRECT",
        "INSTANCE_IPS": address,
    }
    ident = f"sidecar~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"
    return {"id": ident, "metadata": metadata}


def _stamp(item: dict[str, Any]) -> str:
    return str(item["metadata"].get("creationTimestamp", ""))


def _age(item: dict[str, Any]) -> tuple[str, str, str]:
    """What istiod sorts by: so a second's end between two creations changes nothing."""
    meta = item["metadata"]
    return _stamp(item), meta["name"], meta["namespace"]


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _account(namespace: str) -> dict[str, Any]:
    """An account for the pods: `default` takes the controller a moment."""
    meta = {"name": _ACCOUNT, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}


def _live(item: dict[str, Any]) -> dict[str, Any]:
    """The object as it is sent: pods become simulated ones, just as they stand."""
    found = copy.deepcopy(item)
    found["metadata"].pop("creationTimestamp", None)
    if found["kind"] == "Namespace":
        labels = found["metadata"].get("labels", {})
        kept = {k: v for k, v in labels.items() if k not in _INJECTION}
        found["metadata"]["labels"] = kept
    if found["kind"] == "Pod":
        found["spec"].pop("nodeName", None)
        found["spec"]["serviceAccountName"] = _ACCOUNT
        for one in found["spec"]["containers"]:
            one["image"] = "example/none"
    return found
