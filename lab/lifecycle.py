"""Starting and stopping the lab from outside."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lab.paths import ROOT
from lab.sandbox import Isolation, detect
from lab.supervisor import TOOLS
from lab.toolchain import ensure

if TYPE_CHECKING:
    from lab.paths import LabPaths

PORT = 26443
"""Loopback port of the API server when it is free; any free one otherwise."""

INGRESS_PORT = 28080
"""Loopback port of the ingress gateway, likewise."""

_started: dict[int, subprocess.Popen[bytes]] = {}
"""Sandboxes that this very process started: it has to collect their exit codes."""

_READY_WITHIN_S = 90
_GONE_WITHIN_S = 20


class LabError(Exception):
    """The lab cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A lab that is up."""

    port: int
    """Loopback port of the API server."""

    ingress: int
    """Loopback port that leads to port 80 of the ingress gateway."""

    isolation: Isolation
    """What surrounds it."""


def running(paths: LabPaths) -> Running | None:
    """The lab of this checkout, or None. A killed lab counts as none, whatever files it left."""
    if not paths.lock.exists() or not paths.facts.exists() or not _locked(paths):
        return None
    facts = json.loads(paths.facts.read_text())
    return Running(
        port=facts["port"], ingress=facts["ingress"], isolation=Isolation(facts["isolation"])
    )


def up(paths: LabPaths) -> Running:
    """Start the lab and wait until it is ready; a lab that is already up is left alone.

    Raises:
        LabError: it did not become ready; the message ends with its log.
    """
    already = running(paths)
    if already:
        return already
    if _locked(paths):
        raise LabError(f"a lab is starting or stopping in {paths.state}; try again in a moment")
    ensure(TOOLS)  # here, where a person sees the progress if something has to be built
    _clean(paths)
    paths.logs.mkdir(parents=True)
    isolation = detect()
    with (
        _listen(PORT) as api,
        _listen(INGRESS_PORT) as ingress,
        paths.lock.open("w") as lock,
        paths.log.open("wb") as log,
    ):
        inherited: dict[str, socket.socket | IO[str]] = {
            "--api": api,
            "--ingress": ingress,
            "--lock": lock,
        }
        command = [
            *isolation.command(),
            *(sys.executable, "-m", "lab.supervisor", "--state", str(paths.state)),
            *("--isolation", isolation.value),
            *(f"{flag}={file.fileno()}" for flag, file in inherited.items()),
        ]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[file.fileno() for file in inherited.values()],
        )
    _started[process.pid] = process
    (paths.state / "pid").write_text(str(process.pid))
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        found = running(paths)
        if found:
            return found
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    tail = "\n".join(paths.log.read_text(errors="replace").splitlines()[-15:])
    raise LabError(f"the lab did not start (log: {paths.log}):\n{tail}")


def down(paths: LabPaths) -> bool:
    """Stop the lab and remove what it made. Returns whether there was one.

    Raises:
        LabError: a process of it did not end.
    """
    was_up = _locked(paths)
    if was_up:
        _kill(paths)
    if paths.state.exists():
        _clean(paths)
    return was_up


def _kill(paths: LabPaths) -> None:
    """End the sandbox's first process; the kernel ends the others with it.

    Without namespaces the supervisor is asked to end, and ends what it started.
    """
    pid = int((paths.state / "pid").read_text())
    # the lock is held, so the lab lives; still make sure that the number is a lab's
    command = (_read(f"/proc/{pid}/cmdline") or b"").replace(b"\0", b" ")
    if b"lab.supervisor" in command:
        alone = f"--isolation {Isolation.NONE}".encode() in command
        os.kill(pid, signal.SIGTERM if alone else signal.SIGKILL)
    deadline = time.monotonic() + _GONE_WITHIN_S
    while _locked(paths):
        if time.monotonic() > deadline:
            raise LabError(f"the lab (process {pid}) does not end; its log is {paths.log}")
        time.sleep(0.05)
    if pid in _started:
        _started.pop(pid).wait()


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (a file of /proc)
            return file.read()
    except OSError:
        return None


def _clean(paths: LabPaths) -> None:
    """Remove what a lab leaves behind, Pulumi's state of it included; the charts stay."""
    for path in (paths.facts, paths.kubeconfig, paths.state / "pid", paths.lock):
        path.unlink(missing_ok=True)
    for path in paths.state.glob("Pulumi*.yaml"):
        path.unlink()
    for folder in (paths.kwok, paths.logs, paths.pods, paths.pulumi):
        shutil.rmtree(folder, ignore_errors=True)


def _locked(paths: LabPaths) -> bool:
    """Whether a living lab holds the lock."""
    try:
        with paths.lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _listen(usual: int) -> socket.socket:
    """A listening loopback socket: on the usual port, or on a free one."""
    for port in (usual, 0):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
            continue
        if port == 0:
            free = listener.getsockname()[1]
            print(f"port {usual} is taken, the lab uses {free}", file=sys.stderr)
        listener.listen(128)
        return listener
    raise LabError("no free loopback port")


def enter(paths: LabPaths) -> list[str]:
    """The command prefix that runs a program inside the sandbox, on the node.

    Raises:
        LabError: there is no lab, or it has no sandbox.
    """
    found = running(paths)
    if found is None or found.isolation is Isolation.NONE:
        raise LabError("there is no lab with namespaces; `make lab-up` starts one")
    pid = (paths.state / "pid").read_text()
    child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    user = [] if found.isolation is Isolation.ROOT else ["--user", "--preserve-credentials"]
    return ["nsenter", f"--target={child}", *user, "--net", "--mount", "--pid"]
