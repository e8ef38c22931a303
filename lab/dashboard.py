"""A loopback port that leads to Kiali, Grafana, Jaeger or Prometheus, and how to log in there."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import webbrowser
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from lab.cluster import SIMULATED
from lab.lifecycle import LabError, enter
from lab.paths import ROOT
from lab.summary import is_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from lab.paths import LabPaths
    from lab.stack import Stack

_HERE = "127.0.0.1"
_EVENTS = 3
_ANSWERS_WITHIN_S = 10


class Part(StrEnum):
    """A dashboard, by its name in the setting `observability` and of its objects in the cluster."""

    KIALI = "kiali"
    GRAFANA = "grafana"
    JAEGER = "jaeger"
    PROMETHEUS = "prometheus"

    @property
    def port(self) -> int:
        """The local port that is tried first: the one `istioctl dashboard` uses."""
        return {"kiali": 20001, "grafana": 3000, "jaeger": 16686, "prometheus": 9090}[self]

    @property
    def needs(self) -> tuple[Part, ...]:
        """What the setting has to name with it, itself included."""
        on_top = self in {Part.KIALI, Part.GRAFANA}
        return (Part.PROMETHEUS, self) if on_top else (self,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a dashboard is inside the cluster."""

    service: str
    namespace: str
    port: int
    """Of the Service."""

    path: str
    """Of the page, with its leading slash."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read an address such as `http://kiali.istio-system.svc.cluster.local:20001/kiali`."""
        at = urlsplit(url)
        service, namespace = (at.hostname or "").split(".")[:2]
        return cls(service=service, namespace=namespace, port=at.port or 80, path=at.path or "/")


@contextmanager
def until_interrupted() -> Iterator[None]:
    """End what is inside, and no more, on Ctrl-C, SIGTERM or a closed terminal."""
    with _signals_go_to(signal.default_int_handler):
        try:
            yield
        except KeyboardInterrupt:
            print()


@contextmanager
def _signals_go_to(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def show(
    part: Part,
    stack: Stack,
    outputs: Mapping[str, Any],
    paths: LabPaths,
    port: int | None = None,
) -> None:
    """Forward a port to a dashboard until interrupted; say where it is and how to log in.

    Args:
        part: which one.
        stack: the stack it belongs to.
        outputs: the stack's.
        paths: of the lab, if the stack is on it.
        port: local port; None = the usual one, or a free one where that is taken.

    Raises:
        LabError: the stack has no such part, no pod of it is ready or runs, the port is taken, or
            the connection ended.
    """
    if shutil.which("kubectl", path=stack.variables.get("PATH")) is None:
        raise LabError("kubectl is not on PATH; https://kubernetes.io/docs/tasks/tools/")
    target = _target(part, stack, outputs)
    kubectl = ("kubectl", *stack.cluster(), "-n", target.namespace)
    get = ("get", "service", target.service, "-o", "json")
    spec = json.loads(stack.read(*kubectl, *get))["spec"]
    _check(part, stack, kubectl, spec["selector"])
    with _listen(part.port if port is None else port, fixed=port is not None) as listener:
        local = listener.getsockname()[1]
        if stack.on_lab:
            # no --mount: this checkout's files; no --pid: nsenter would fork, and the fork stay
            lead = [word for word in enter(paths) if word not in {"--mount", "--pid"}]
            words = (str(listener.fileno()), spec["clusterIP"], str(target.port))
            command = [*lead, sys.executable, "-m", "lab.relay", *words]
        else:
            listener.close()
            pair = f"{local}:{target.port}"
            forward = ("port-forward", "--address", _HERE, f"service/{target.service}", pair)
            command = [*kubectl, *forward]

        def ready() -> None:
            _announce(part, f"http://{_HERE}:{local}{target.path}", _login(part, stack, kubectl))

        _carry(command, stack, listener, ready)


def _target(part: Part, stack: Stack, outputs: Mapping[str, Any]) -> Target:
    """Where it is, by the stack's outputs.

    Raises:
        LabError: there is none; the message has the commands that add it.
    """
    up = f"make up STACK={stack.name}"
    if "mtls" not in outputs:
        raise LabError(f"nothing of the stack {stack.name} is deployed\n  fix: {up}")
    found = outputs.get("observability", {})
    if part in found:
        return Target.parse(found[part])
    settings = json.loads(stack.read(*stack.pulumi("config", "--json")))
    named = settings.get("service-mesh:observability", {}).get("objectValue", [])
    missing = [one for one in part.needs if one not in named]
    lead = f"pulumi config set --stack {stack.name}"
    if stack.on_lab:
        lead = f".venv/bin/python -m lab pulumi --stack {stack.name} -- config set"
    commands = [
        f"{lead} --path 'observability[{index}]' {one}"
        for index, one in enumerate(missing, start=len(named))
    ]
    raise LabError(
        f"{part.title()} is not in the stack {stack.name}: its setting observability "
        + (f"has no {' and no '.join(missing)}" if missing else "names it, and it is not deployed")
        + "\n  fix: "
        + " && ".join([*commands, up])
    )


def _check(part: Part, stack: Stack, kubectl: Sequence[str], selector: Mapping[str, str]) -> None:
    """Go on if a pod is there that can be talked to.

    Raises:
        LabError: there is none; the message has what Kubernetes says about it.
    """
    labels = ",".join(f"{name}={value}" for name, value in selector.items())
    items = json.loads(stack.read(*kubectl, "get", "pods", "-l", labels, "-o", "json"))["items"]
    pods = [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]
    ready = [pod for pod in pods if is_ready(pod)]
    if ready and all(SIMULATED in (pod["metadata"].get("annotations") or {}) for pod in ready):
        raise LabError(
            f"{part.title()} is simulated on the lab: its image cannot run here, so there is no "
            f"page\n  on a cluster of your own: make {part} STACK=NAME"
        )
    if ready:
        return
    lines = [f"{part.title()} is not ready"]
    look: tuple[str, ...] = ("describe", "deployment,replicaset", "-l", labels)
    if not pods:
        lines.append(f"  there is no pod with {labels}")
    for pod in pods:
        name = pod["metadata"]["name"]
        why, started = _why(pod)
        lines.append(f"  pod {name}: {why}")
        look = ("logs", name, "--all-containers") if started else ("describe", "pod", name)
    said = "\n".join(lines)
    lines += [
        f"  event: {_words(event)}"
        for event in _events(part, stack, kubectl, pods)
        if event.get("message", "") not in said
    ]
    lines += [
        f"  look: {shlex.join((*kubectl, *look))}",
        f"  then: make {part} STACK={stack.name}",
    ]
    raise LabError("\n".join(lines))


def _why(pod: Mapping[str, Any]) -> tuple[str, bool]:
    """Why a pod is not ready, and whether its logs can tell more than its description."""
    status = pod.get("status", {})
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or []:
            state = container.get("state", {})
            if waiting := state.get("waiting"):
                crashed = waiting.get("reason") == "CrashLoopBackOff"
                return _words(waiting), crashed
            ended = state.get("terminated", {})
            if ended.get("exitCode"):
                return f"{_words(ended)} (exit code {ended['exitCode']})", True
    for condition in status.get("conditions") or []:
        if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
            return _words(condition), False
    if status.get("phase") == "Running":
        return "it runs, and its readiness probe has not succeeded", True
    return _words({"reason": status.get("phase"), **status}), False


def _words(state: Mapping[str, Any]) -> str:
    """Reason and message on one line, as far as there are any."""
    said = [state.get("reason"), state.get("message")]
    return " ".join(": ".join(one for one in said if one).split()) or "no reason given"


def _events(
    part: Part, stack: Stack, kubectl: Sequence[str], pods: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The last complaints about pods and their volumes; without pods, about who makes them."""
    names = {pod["metadata"]["name"] for pod in pods}
    for pod in pods:
        for volume in pod.get("spec", {}).get("volumes") or []:
            names.add(volume.get("persistentVolumeClaim", {}).get("claimName"))

    def concerned(event: Mapping[str, Any]) -> bool:
        about = event["involvedObject"].get("name", "")
        bad = event.get("type") == "Warning" or event.get("reason", "").startswith("Failed")
        return bad and (about in names if pods else f"{about}-".startswith(f"{part}-"))

    def time(event: Mapping[str, Any]) -> str:
        return event.get("lastTimestamp") or event.get("eventTime") or ""

    items = json.loads(stack.read(*kubectl, "get", "events", "-o", "json"))["items"]
    # the same complaint comes again and again
    said = {_words(event): event for event in sorted(filter(concerned, items), key=time)}
    return list(said.values())[-_EVENTS:]


def _login(part: Part, stack: Stack, kubectl: Sequence[str]) -> str:
    """How to log in. A secret is told to a person at a terminal, and to no file or pipe."""
    match part:
        case Part.GRAFANA:
            template = 'go-template={{index .data "admin-password" | base64decode}}'
            command = (*kubectl, "get", "secret", part, "-o", template)
            return f"user admin, password {_secret(command, _grafana_password, stack, kubectl)}"
        case Part.KIALI:
            if _kiali_auth(stack, kubectl) == "anonymous":
                return "none: whoever reaches this port sees everything that Kiali sees"
            command = (*kubectl, "create", "token", part)
            return f"token {_secret(command, _kiali_token, stack, kubectl)}"
        case _:
            return "none"


def _secret(
    command: Sequence[str],
    read: Callable[[Stack, Sequence[str]], str],
    stack: Stack,
    kubectl: Sequence[str],
) -> str:
    """A secret, or the command that prints it."""
    if _at_a_terminal():
        try:
            return read(stack, kubectl)
        except (LabError, KeyError):
            pass  # who may not read it is told what would have to be read
    return f"from: {shlex.join(command)}"


def _grafana_password(stack: Stack, kubectl: Sequence[str]) -> str:
    # as JSON: a template that fails prints all of the Secret
    secret = json.loads(stack.read(*kubectl, "get", "secret", Part.GRAFANA, "-o", "json"))
    return base64.b64decode(secret["data"]["admin-password"]).decode()


def _kiali_token(stack: Stack, kubectl: Sequence[str]) -> str:
    return stack.read(*kubectl, "create", "token", Part.KIALI).strip()


def _kiali_auth(stack: Stack, kubectl: Sequence[str]) -> str:
    """The strategy in Kiali's own configuration."""
    found = stack.read(*kubectl, "get", "configmap", Part.KIALI, "-o", "json")
    strategy: str = yaml.safe_load(json.loads(found)["data"]["config.yaml"])["auth"]["strategy"]
    return strategy


def _listen(port: int, *, fixed: bool) -> socket.socket:
    """A listening loopback socket: on this port or, unless it is fixed, on a free one.

    Raises:
        LabError: the port cannot be had.
    """
    for choice in (port,) if fixed else (port, 0):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HERE, choice))
            listener.listen()
        except (OSError, OverflowError) as error:
            listener.close()
            problem = getattr(error, "strerror", error)
            continue
        if choice != port:
            print(f"port {port} is taken, {listener.getsockname()[1]} is used")
        return listener
    raise LabError(f"port {port}: {problem}\n  fix: leave --port out, and a free one is used")


def _announce(part: Part, url: str, login: str) -> None:
    """Say where it is, ask whether it answers, and open it where somebody is to look at it."""
    print(f"{part.title()}: {url}\nlogin: {login}\nCtrl-C ends it", flush=True)
    # whatever proxy the surroundings name is for other machines
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(url, timeout=_ANSWERS_WITHIN_S).close()
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode(errors="replace").strip()
        print(f"there is no page: it answers {error.code} {said}", flush=True)
        if part is Part.PROMETHEUS:
            # built from Go modules it comes without its page
            print(f"its API: {url}api/v1/query?query=up", flush=True)
    except (OSError, HTTPException) as error:
        print(f"it does not answer: {error}", flush=True)
    else:
        if _somebody_looks():
            webbrowser.open(url)


def _somebody_looks() -> bool:
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    graphical = sys.platform == "darwin" or any(os.environ.get(name) for name in displays)
    return graphical and _at_a_terminal()


def _at_a_terminal() -> bool:
    return sys.stdout.isatty()


def _carry(
    command: Sequence[str], stack: Stack, listener: socket.socket, ready: Callable[[], None]
) -> None:
    """Run the forwarding program, and stop it in the end.

    Args:
        command: prints "Forwarding from" when it takes connections.
        stack: whose surroundings it runs in.
        listener: handed on, unless it is closed.
        ready: called then.

    Raises:
        LabError: it ended; the message has its last words.
    """
    descriptors = () if listener.fileno() < 0 else (listener.fileno(),)
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **stack.variables},
        # the relay ends with it, however this process ends; kubectl does not care
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=descriptors,
        # Ctrl-C is for this process, which then stops the child
        start_new_session=True,
    )
    listener.close()
    assert child.stdout is not None  # noqa: S101 (for the type checker)
    last: deque[str] = deque(maxlen=10)
    interrupted = False

    def stop(*_: object) -> None:
        # no exception, which might come in the middle of anything: the loop ends with the child
        nonlocal interrupted
        interrupted = True
        child.terminate()

    with child, _signals_go_to(stop):
        try:
            for line in child.stdout:
                if line.startswith("Forwarding from"):
                    ready()
                elif not line.startswith("Handling connection"):
                    last.append(line)
        finally:
            child.terminate()
    if not interrupted:
        raise LabError(f"the connection ended:\n{''.join(last).strip()}")
    print()
