"""A few pods of one's own on the lab, to try the mesh on: for `make sniff` and for the tests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.lifecycle import enter
from lab.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lab.paths import LabPaths
    from lab.stack import Stack

GET = ("sh", "-c", '"$@" || true', "sh", sys.executable, "-S", "-m", "lab.apps.get")
"""The HTTP client that is in every container of the lab's own images; what it prints is enough."""

_READY_WITHIN_S = 180


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of one request."""

    status: int | None
    """HTTP status; None where there was no answer."""

    error: str | None
    """`reset`, `refused`, `timeout`, `tls: ...`; None where there was an answer."""

    headers: dict[str, str]
    """The answer's, names in lower case."""

    body: str

    @classmethod
    def parse(cls, text: str) -> Answer:
        """What `lab.apps.get` printed."""
        answer = json.loads(text)
        return cls(
            status=answer["status"],
            error=answer["error"],
            headers={name.lower(): value for name, value in (answer["headers"] or {}).items()},
            body=answer["body"] or "",
        )

    @property
    def peer(self) -> dict[str, str]:
        """What the server saw of its client: fields of X-Forwarded-Client-Cert, `By` and `URI`."""
        seen = self.headers.get("x-forwarded-client-cert-seen", "")
        return dict(part.split("=", 1) for part in seen.split(";") if "=" in part)


class Playground:
    """kubectl with a few habits."""

    def __init__(self, stack: Stack, paths: LabPaths) -> None:
        self._stack = stack
        self._paths = paths

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl on the stack's cluster.

        Raises:
            LabError: it failed; the message is its error output.
        """
        return self._stack.read("kubectl", *self._stack.cluster(), *words, stdin=stdin)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create objects, or change them."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """Pods that are not on their way out."""
        words = ("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
        items: list[dict[str, Any]] = json.loads(self.kubectl(*words))["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, namespace: str, *names: str) -> None:
        """Wait until Deployments are rolled out."""
        for name in names:
            words = ("rollout", "status", f"deployment/{name}", f"--timeout={_READY_WITHIN_S}s")
            self.kubectl("-n", namespace, *words)

    def execute(self, namespace: str, workload: str, *words: str) -> str:
        """Run a command in the container `app` of a workload (`deployment/x`) or pod."""
        return self.kubectl("-n", namespace, "exec", workload, "-c", "app", "--", *words)

    def get(self, namespace: str, workload: str, url: str, *options: str) -> Answer:
        """Request a URL from inside a workload's container."""
        return Answer.parse(self.execute(namespace, workload, *GET, url, *options))

    def eventually(
        self, namespace: str, workload: str, url: str, *options: str, refused: bool
    ) -> Answer:
        """Ask until the answer is a refusal, or is not: configuration takes a moment to arrive."""
        deadline = time.monotonic() + 15
        while True:
            answer = self.get(namespace, workload, url, *options)
            if (answer.error is not None) == refused or time.monotonic() > deadline:
                return answer
            time.sleep(0.2)

    def on_node(self, *words: str) -> subprocess.Popen[str]:
        """Start a program on the lab's node, inside the sandbox."""
        # entering a mount namespace also changes the working folder
        command = [*enter(self._paths), "env", f"PYTHONPATH={ROOT}", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def delete_namespaces(self, names: Iterable[str]) -> None:
        """Delete namespaces and wait until they are gone."""
        self.kubectl("delete", "namespace", "--ignore-not-found", *names)


def namespace(name: str, *, injected: bool) -> dict[str, Any]:
    """A namespace, with sidecars or without."""
    labels = {"istio-injection": "enabled"} if injected else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def workload(
    name: str, where: str, *, image: str = "client", replicas: int = 1
) -> list[dict[str, Any]]:
    """A ServiceAccount, a Deployment and, for the image `echo`, a Service on port 8000."""
    meta = {"name": name, "namespace": where}
    container: dict[str, Any] = {"name": "app", "image": f"service-mesh.lab/{image}"}
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "serviceAccountName": name,
                        "terminationGracePeriodSeconds": 5,
                        "containers": [container],
                    },
                },
            },
        },
    ]
    if image == "echo":
        container["ports"] = [{"containerPort": 8080}]
        container["readinessProbe"] = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
        port = {"name": "http", "port": 8000, "targetPort": 8080}
        spec = {"selector": {"app": name}, "ports": [port]}
        objects.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    return objects


def peer_authentication(
    where: str, mode: str, *, ports: dict[int, str] | None = None, app: str | None = None
) -> dict[str, Any]:
    """A PeerAuthentication for a namespace, or for one workload and its ports."""
    spec: dict[str, Any] = {"mtls": {"mode": mode}}
    if app is not None:
        spec["selector"] = {"matchLabels": {"app": app}}
    if ports:
        spec["portLevelMtls"] = {str(port): {"mode": m} for port, m in ports.items()}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": app or "default", "namespace": where},
        "spec": spec,
    }
