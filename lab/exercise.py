"""The lesson's exercise: `examples/two-services` on a lab of its own, and is it mutual TLS?

A line that begins with `$` is what a person would type; what runs is the same program.
"""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from lab.lifecycle import LabError, down, running, up
from lab.paths import ROOT, LabPaths
from lab.playground import GET, Answer, Playground, namespace, workload
from lab.sandbox import Isolation
from lab.stack import Stack, open_example

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = ROOT / "examples" / "two-services"

_SHOP = "shop"
"""The namespace that the example makes."""

_HEADERS = "http://backend.shop:9898/headers"
"""Answers with the request's headers, so what the backend's proxy added is seen."""

_WITNESS = "X-Forwarded-Client-Cert"

_SETTLED_WITHIN_S = 15
"""What has just been made takes the proxies a moment."""


def exercise(around: LabPaths) -> int:
    """Do it, on a lab that is started for it and gone afterwards.

    Args:
        around: the lab of the checkout, which is left alone; its folder gets another one inside.

    Returns:
        The exit code: 0 if the call between the two services was mutual TLS and the call from
        outside the mesh was refused, by what was seen and by tlscheck.

    Raises:
        LabError: the lab did not start or runs no pods, or a program failed.
        ToolchainError: a program could not be had.
    """
    paths = LabPaths(state=around.state / "exercise")
    try:
        up(paths)
        lab = running(paths)
        if lab is None or lab.isolation is Isolation.NONE:
            raise LabError("this machine forbids the namespaces that the exercise's pods run in")
        return _steps(open_example(PROGRAM, paths), paths)
    finally:
        down(paths)


def _steps(opened: Stack, paths: LabPaths) -> int:
    play = Playground(opened, paths)

    _say("1. The program: a mesh with strict mutual TLS, a frontend and a backend")
    _typed("pulumi up --cwd examples/two-services")
    if code := opened.call(*opened.pulumi("up", "--yes", "--skip-preview")):
        return code

    _say("2. The frontend calls the backend; the backend's proxy says who called")
    _typed(f"kubectl -n {_SHOP} exec deployment/frontend-v1 -- curl -s {_HEADERS}")
    inside = _settled(lambda: _ask(play, _SHOP, "frontend-v1", "frontend"), refused=False)
    caller = inside.peer.get("URI", "")
    _print(f"{inside.status or inside.error}, {_WITNESS}: URI={caller or 'none'}")

    _say("3. The same question to the cluster's objects")
    mutual = _tlscheck(opened, "frontend-v1.shop", "backend:9898") == 0

    _say("4. A client without a sidecar calls the same backend")
    outside = f"outside-{secrets.token_hex(3)}"
    play.apply(namespace(outside, injected=False), *workload("client", outside))
    play.ready(outside, "client")
    _typed(f"kubectl -n {outside} exec deployment/client -- curl -s {_HEADERS}")
    plain = _settled(lambda: _ask(play, outside, "client", "app"), refused=True)
    _print(f"refused ({plain.error})" if plain.error else f"answered: {plain.status}")

    _say("5. And what the objects say of it")
    plaintext = _tlscheck(opened, f"client.{outside}", "backend.shop:9898") == 1

    proven = mutual and plaintext and caller == "spiffe://cluster.local/ns/shop/sa/frontend"
    return 0 if proven and plain.error == "reset" else 1


def _ask(play: Playground, where: str, deployment: str, container: str) -> Answer:
    words = ("-n", where, "exec", f"deployment/{deployment}", "-c", container, "--")
    return Answer.parse(play.kubectl(*words, *GET, _HEADERS))


def _settled(ask: Callable[[], Answer], *, refused: bool) -> Answer:
    """Ask until the answer is a refusal, or is not, or the time is over."""
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while True:
        answer = ask()
        if (answer.error is not None) == refused or time.monotonic() > deadline:
            return answer
        time.sleep(0.3)


def _tlscheck(opened: Stack, client: str, server: str) -> int:
    """Show what it prints and return its exit code: 1 where the connection is not mutual TLS."""
    words = ("-m", "tlscheck", client, server, "--require", "ISTIO_MUTUAL")
    _typed(f"python {shlex.join(words)}")
    done = subprocess.run(
        [sys.executable, *words, *opened.cluster()],
        cwd=ROOT,
        env={**os.environ, **opened.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    _print(done.stdout.rstrip() or done.stderr.rstrip())
    return done.returncode


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _typed(command: str) -> None:
    print(f"\n$ {command}", flush=True)


def _print(text: str) -> None:
    print(text, flush=True)
