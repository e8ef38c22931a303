"""A lab with nothing on it but istiod, and the objects of one case at a time."""

from __future__ import annotations

import copy
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import yaml

from lab.lifecycle import LabError
from lab.playground import Playground
from lab.stack import open_stack

if TYPE_CHECKING:
    from lab.paths import LabPaths

ROOT_NAMESPACE = "istio-system"
_SETTINGS = {"profile": "minimal", "bookinfo": "false", "mtlsScope": "namespace"}
_READY_WITHIN_S = 60
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

    def configure(self, mesh: dict[str, Any]) -> None:
        """Set `enableAutoMtls`; istiod reads its ConfigMap again by itself."""
        wanted = {"enableAutoMtls": mesh.get("enableAutoMtls", True)}
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
        """Create a case's objects, oldest first; returns pod -> address.

        Raises:
            LabError: an object was refused, or a pod got no address.
        """
        live = [_live(one) for one in objects]
        wanted = {one["metadata"]["namespace"] for one in live} - {ROOT_NAMESPACE}
        new = sorted(wanted - self._namespaces)
        for name in new:
            meta = {"name": name}
            self._play.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        self._namespaces |= wanted
        self._accounts(new)
        pairs = list(zip(objects, live, strict=True))
        stamps = sorted({_stamp(one) for one in objects})
        for number, stamp in enumerate(stamps):
            if number:
                time.sleep(1.1)
            time.sleep(1.02 - time.time() % 1)  # the same age is the same second
            aged = [new for old, new in pairs if old["kind"] in _AGED and _stamp(old) == stamp]
            if aged:
                self._play.apply(*aged)
        self._play.apply(*(one for one in live if one["kind"] not in _AGED))
        pods = {
            f"{one['metadata']['namespace']}/{one['metadata']['name']}"
            for one in live
            if one["kind"] == "Pod"
        }
        return self._addresses(pods)

    def unload(self, objects: list[dict[str, Any]]) -> None:
        """Delete a case's objects and wait until they are gone; empty namespaces stay."""
        items = {"apiVersion": "v1", "kind": "List", "items": [_live(one) for one in objects]}
        words = ("delete", "--ignore-not-found", "--grace-period=1", "-f", "-")
        self._play.kubectl(*words, stdin=json.dumps(items))

    def finish(self) -> None:
        """Delete the namespaces."""
        if self._namespaces:
            self._play.delete_namespaces(sorted(self._namespaces))

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

    def _accounts(self, namespaces: list[str]) -> None:
        """Wait for what a pod needs before it is admitted."""
        for name in namespaces:
            words = ("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
            self._play.kubectl("-n", name, *words)

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
        "SERVICE_ACCOUNT": pod["spec"].get("serviceAccountName", "default"),
        "CLUSTER_ID": "Kubernetes",
        "ISTIO_VERSION": "1.31.0",
        "INTERCEPTION_MODE": "REDIRECT",
        "INSTANCE_IPS": address,
    }
    ident = f"sidecar~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"
    return {"id": ident, "metadata": metadata}


def _stamp(item: dict[str, Any]) -> str:
    return str(item["metadata"].get("creationTimestamp", "")) if item["kind"] in _AGED else ""


def _live(item: dict[str, Any]) -> dict[str, Any]:
    """The object as it is sent: pods become simulated ones."""
    found = copy.deepcopy(item)
    found["metadata"].pop("creationTimestamp", None)
    if found["kind"] == "Pod":
        found["spec"].pop("nodeName", None)
        for one in found["spec"]["containers"]:
            one["image"] = "example/none"
    return found
