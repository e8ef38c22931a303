"""The control plane: etcd, kube-apiserver, controller-manager, scheduler and kwok, by kwokctl.

kwokctl's binary runtime makes the certificates and starts the five processes; this module says
with which settings. It runs inside the sandbox.
"""

from __future__ import annotations

import base64
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lab.paths import CONTEXT
from lab.sandbox import NODE_ADDRESS, SERVICE_CIDR, Isolation

if TYPE_CHECKING:
    from lab.paths import LabPaths
    from lab.toolchain import Tools

NAME = "mesh"
"""kwokctl's name for the cluster."""

SIMULATED = "service-mesh.lab/simulated"
"""Annotation of a pod that no process backs: its images are unknown, kwok plays its status."""

POD_CIDR = "10.244.0.0/17"
"""Addresses of the pods that run."""

SIMULATED_POD_CIDR = "10.244.128.0/17"
"""Addresses of the pods that kwok simulates."""

KUBERNETES_SERVICE = "10.96.0.1"
"""The API server, as every pod knows it: the first address of the Service range."""

_FEATURE_GATES = "WatchList=false,ExtendWebSocketsToKubelet=true,NodeDeclaredFeatures=true"
"""WatchList: see `create`. The others let `kubectl exec` speak WebSocket to the node agent."""

TOOLS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "kwokctl", "etcd")
"""What has to be there before a cluster can start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """How to reach the API server as an administrator."""

    server: str
    """https URL."""

    ca: Path
    certificate: Path
    key: Path


def create(paths: LabPaths, tools: Tools, *, port: int, isolation: Isolation) -> Credentials:
    """Start the control plane and wait until it answers.

    Args:
        paths: the lab's folders.
        tools: where the binaries are.
        port: of the API server.
        isolation: without namespaces everything binds to loopback, and the API server reaches
            webhooks through the proxy of `lab.egress`.

    Raises:
        RuntimeError: kwokctl failed; the message has its last words and where the logs are.
    """
    paths.kwok.mkdir(parents=True)
    config = paths.kwok / "config.yaml"
    arguments = _extra_arguments(paths, isolation=isolation)
    config.write_text(yaml.safe_dump_all([_configuration(arguments), *_stages()]))
    environment = {
        **_environment(paths),
        # etcd 3.5.1 has no RequestWatchProgress: with WatchList informers take 10 s to 80 s
        "KUBE_FEATURE_WatchListClient": "false",
    }
    command = [
        str(tools.path("kwokctl")),
        *("create", "cluster", "--name", NAME, "--runtime", "binary", "--wait", "60s"),
        *("--config", str(config), "--kubeconfig", str(paths.kwok / "kubeconfig")),
        *("--kube-apiserver-port", str(port), "--kube-feature-gates", _FEATURE_GATES),
    ]
    for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"):
        command += [f"--{component}-binary", str(tools.path(component))]
    command += ["--kwok-controller-binary", str(tools.path("kwok"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the control plane did not start: {done.stderr.strip()[-1500:]}\n"
            f"logs: {paths.kwok}/clusters/{NAME}/logs"
        )
    pki = _pki(paths)
    return Credentials(
        server=f"https://127.0.0.1:{port}",
        ca=pki / "ca.crt",
        certificate=pki / "admin.crt",
        key=pki / "admin.key",
    )


def ended(paths: LabPaths) -> list[str]:
    """The components whose process is gone."""
    return sorted(pid.stem for pid in (_folder(paths) / "pids").glob("*.pid") if not _lives(pid))


def _lives(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text()), 0)
    except (ProcessLookupError, FileNotFoundError):
        return False
    except ValueError:
        # it is being written
        return True
    return True


def revive(paths: LabPaths, tools: Tools) -> None:
    """Start the components whose process is gone; the others stay as they are."""
    command = [str(tools.path("kwokctl")), "start", "cluster", "--name", NAME]
    subprocess.run(command, env=_environment(paths), capture_output=True, check=False)


def delete(paths: LabPaths, tools: Tools) -> None:
    """Stop the control plane's processes; needed only where no sandbox ends them."""
    command = [str(tools.path("kwokctl")), "delete", "cluster", "--name", NAME]
    subprocess.run(command, env=_environment(paths), capture_output=True, check=False)


def _folder(paths: LabPaths) -> Path:
    return paths.kwok / "clusters" / NAME


def _pki(paths: LabPaths) -> Path:
    return _folder(paths) / "pki"


def _environment(paths: LabPaths) -> dict[str, str]:
    return {**os.environ, "KWOK_WORKDIR": str(paths.kwok), "HOME": str(paths.kwok)}


def write_kubeconfig(path: Path, credentials: Credentials) -> None:
    """Write the kubeconfig for programs outside: one context, certificates included, mode 0600."""

    def inline(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [
            {
                "name": CONTEXT,
                "cluster": {
                    "server": credentials.server,
                    "certificate-authority-data": inline(credentials.ca),
                },
            }
        ],
        "users": [
            {
                "name": CONTEXT,
                "user": {
                    "client-certificate-data": inline(credentials.certificate),
                    "client-key-data": inline(credentials.key),
                },
            }
        ],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def _extra_arguments(paths: LabPaths, *, isolation: Isolation) -> dict[str, dict[str, str]]:
    """Component -> flag -> value, beside what kwokctl sets itself."""
    apiserver = {"service-cluster-ip-range": SERVICE_CIDR, "enable-aggregator-routing": "true"}
    kwok = {"cidr": SIMULATED_POD_CIDR, "node-ip": NODE_ADDRESS}
    arguments = {
        "etcd": {"unsafe-no-fsync": "true"},  # the data lives no longer than the machine stays up
        "kube-apiserver": apiserver,
        "kwok-controller": kwok,
        # one of each: an election could only be lost, on a slow machine, and nobody would take over
        "kube-controller-manager": {"leader-elect": "false"},
        "kube-scheduler": {"leader-elect": "false"},
    }
    if isolation is Isolation.NONE:
        egress = paths.state / "egress.yaml"
        egress.write_text(_egress(paths.egress))
        apiserver |= {"egress-selector-config-file": str(egress), "bind-address": "127.0.0.1"}
        kwok["server-address"] = "127.0.0.1:0"
        for component in ("kube-controller-manager", "kube-scheduler"):
            arguments[component]["bind-address"] = "127.0.0.1"
        client, peer = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
        arguments["etcd"] |= {"listen-client-urls": client, "listen-peer-urls": peer}
        apiserver["etcd-servers"] = client
    else:
        # with no default route the API server cannot guess which address is its own
        apiserver["advertise-address"] = NODE_ADDRESS
        pki = _pki(paths)
        apiserver["kubelet-client-certificate"] = str(pki / "admin.crt")
        apiserver["kubelet-certificate-authority"] = str(pki / "ca.crt")
        apiserver["kubelet-preferred-address-types"] = "InternalIP"
        apiserver["kubelet-client-key"] = str(pki / "admin.key")
    return arguments


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _configuration(arguments: dict[str, dict[str, str]]) -> dict[str, object]:
    """kwokctl's configuration; its flag for extra arguments mixes up components in 0.8.0."""
    return {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokctlConfiguration",
        "componentsPatches": [
            {"name": name, "extraArgs": [{"key": k, "value": v} for k, v in flags.items()]}
            for name, flags in arguments.items()
        ],
    }


def _egress(socket: Path) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [
                {
                    "name": "cluster",
                    "connection": {
                        "proxyProtocol": "HTTPConnect",
                        "transport": {"uds": {"udsName": str(socket)}},
                    },
                }
            ],
        }
    )


def _stages() -> list[dict[str, object]]:
    """kwok's behaviour: it plays only pods that the node agent has marked as simulated.

    The node's stage does nothing: without one, kwok would not look at the node's pods at all.
    """
    simulated = f'.metadata.annotations["{SIMULATED}"]'
    return [
        _stage("node", "Node", {".metadata.deletionTimestamp": "Exists"}, {}),
        _stage(
            "simulated-pod-runs",
            "Pod",
            {
                simulated: "Exists",
                ".status.podIP": "DoesNotExist",
                ".metadata.deletionTimestamp": "DoesNotExist",
            },
            {"statusTemplate": _SIMULATED_STATUS},
        ),
        _stage(
            "simulated-pod-goes",
            "Pod",
            {simulated: "Exists", ".metadata.deletionTimestamp": "Exists"},
            {"delete": True},
        ),
    ]


def _stage(
    name: str, kind: str, match: dict[str, str], then: dict[str, object]
) -> dict[str, object]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {
                "matchExpressions": [
                    {"key": key, "operator": operator} for key, operator in match.items()
                ]
            },
            "next": then,
        },
    }


_SIMULATED_STATUS = """\
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
{{ range $type := list "Initialized" "ContainersReady" "Ready" }}
- {type: {{ $type }}, status: "True", reason: Simulated, lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  {{ if eq (or .restartPolicy "") "Always" }}
  started: true
  state: {running: {startedAt: {{ $now | Quote }}}}
  {{ else }}
  state: {terminated: {exitCode: 0, reason: Completed, finishedAt: {{ $now | Quote }}}}
  {{ end }}
{{ end }}
{{ range $ip := (NodeIPsWith .spec.nodeName) }}
hostIP: {{ $ip | Quote }}
{{ end }}
{{ range $ip := (PodIPsWith .spec.nodeName (or .spec.hostNetwork false) (or .metadata.uid "") \
(or .metadata.name "") (or .metadata.namespace "")) }}
podIP: {{ $ip | Quote }}
podIPs: [{ip: {{ $ip | Quote }}}]
{{ end }}
"""
