"""The faults of the bench, and a run of it."""

from __future__ import annotations

import json
import random
import secrets
import time
from typing import TYPE_CHECKING, Final

from lab import cluster
from lab.chaos import (
    DESTROY,
    SETTINGS,
    STACK,
    UP,
    Bench,
    Fault,
    Row,
    Typed,
    last,
    points,
    steps,
    table,
)
from lab.lifecycle import LabError, down, enter, running, up
from lab.paths import LabPaths
from lab.sandbox import Isolation
from lab.stack import open_stack

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

_GONE_S = 30
_BETWEEN_S = 5
"""The longest time from a step to a kill; a Helm release takes about as long."""

_ON_A_FULL_DISK = """
set -eu
state=$1 && small=$(mktemp -d) && shift
mount -t tmpfs -o size=1g none "$small"
cp -a "$state/." "$small"
used=$(df --output=used -k "$small" | tail -1)
mount -o remount,size=$((used + 64))k "$small"
mount --bind "$small" "$state"
code=0 && "$@" || code=$?
umount "$state"
cp -a "$small/." "$state"
umount "$small" && rmdir "$small"
exit "$code"
"""
"""Runs a command while a folder lies on a small file system of its own, with 64 KiB left: the
state of an installation outgrows it. Afterwards there is room again, with all that was written.
For a mount namespace, which takes the mounts along whatever happens."""


def edited(bench: Bench) -> str:
    """Objects of Pulumi's own, changed by somebody else."""
    bench.must("kubectl", "label", "namespace", "bookinfo", "istio-injection-")
    permissive = json.dumps({"spec": {"mtls": {"mode": "PERMISSIVE"}}})
    for where, name in _policies(bench):
        patch = ("patch", "peerauthentication", name, "--type=merge", "-p", permissive)
        bench.must("kubectl", "-n", where, *patch)
    return "label removed, STRICT made PERMISSIVE"


def deleted(bench: Bench) -> str:
    """Objects of Pulumi's own, gone."""
    for where, name in _policies(bench):
        bench.must("kubectl", "-n", where, "delete", "peerauthentication", name)
    return "PeerAuthentication deleted"


def helms_own(bench: Bench) -> str:
    """Objects inside Helm releases, changed and deleted: Pulumi and Helm look at none of them."""
    where = ("kubectl", "-n", "istio-system")
    mesh = json.dumps({"data": {"mesh": "accessLogFile: /dev/null"}})
    bench.must(*where, "patch", "configmap", "istio", "--type=merge", "-p", mesh)
    bench.must(*where, "delete", "deployment/istiod", "service/istiod", "serviceaccount/istiod")
    return "istiod's Deployment, Service and ServiceAccount deleted, its ConfigMap changed"


def crds_deleted(bench: Bench) -> str:
    """Istio's CRDs, and so every Istio object."""
    found = bench.must("kubectl", "get", "crds", "-o", "name").split()
    istios = [name for name in found if name.endswith(".istio.io")]
    bench.must("kubectl", "delete", "--timeout=60s", *istios)
    return f"{len(istios)} CRDs deleted"


def namespace_terminating(bench: Bench) -> str:
    """A namespace that is deleted and cannot go, until a person takes a finalizer away."""
    where = ("kubectl", "-n", "bookinfo")
    bench.must(*where, "create", "configmap", "held")
    held = json.dumps({"metadata": {"finalizers": ["example.com/hold"]}})
    bench.must(*where, "patch", "configmap", "held", "--type=merge", "-p", held)
    bench.must("kubectl", "delete", "namespace", "bookinfo", "--wait=false")
    code, said = bench.up()
    if code == 0:
        raise LabError("an update of a namespace that is being deleted was not refused")
    free = json.dumps({"metadata": {"finalizers": None}})
    bench.must(*where, "patch", "configmap", "held", "--type=merge", "-p", free)
    bench.must("kubectl", "wait", "--for=delete", "namespace/bookinfo", "--timeout=60s")
    return f"an update was refused: {last(said)}; then the finalizer was removed"


def api_server_restarted(bench: Bench) -> str:
    """The API server ends in the middle of an update; the lab starts it again."""
    process = _installing(bench, "istio-base")
    pid = (bench.paths.kwok / "clusters" / cluster.NAME / "pids" / "kube-apiserver.pid").read_text()
    bench.must(*enter(bench.paths), "kill", "-9", pid.strip())
    said = process.communicate()[0]
    deadline = time.monotonic() + _GONE_S
    while bench.run("kubectl", "get", "--raw", "/readyz")[0]:
        if time.monotonic() > deadline:
            raise LabError(f"the API server did not come back in {_GONE_S} s")
    return f"the update ended with {process.returncode}: {last(said)}"


def istiod_gone(bench: Bench) -> str:
    """No istiod for 30 s, and meanwhile an update that needs its webhook."""
    where = ("kubectl", "-n", "istio-system")
    bench.must(*where, "scale", "deployment/istiod", "--replicas=0")
    began = time.monotonic()
    bench.must(*where, "wait", "--for=delete", "pod", "-l", "app=istiod", "--timeout=60s")
    bench.set(mtlsMode="PERMISSIVE")
    code, said = bench.up()
    bench.set(mtlsMode="STRICT")
    time.sleep(max(0.0, began + _GONE_S - time.monotonic()))
    bench.must(*where, "scale", "deployment/istiod", "--replicas=1")
    bench.must(*where, "rollout", "status", "deployment/istiod", "--timeout=60s")
    if code == 0:
        raise LabError("the update did not need istiod")
    return f"an update meanwhile ended with {code}: {last(said)}"


def disk_full(bench: Bench) -> str:
    """An installation whose state has no room."""
    bench.destroy()
    state = str(bench.paths.pulumi / "state")
    prefix = ("unshare", "--mount", "sh", "-c", _ON_A_FULL_DISK, "sh", state)
    code, said = bench.pulumi(*UP, prefix=prefix)
    if code == 0:
        raise LabError("the disk was not full")
    done = len(list(steps(said.splitlines())))
    return f"the update ended with {code} after {done} steps: {last(said)}"


def two_updates(bench: Bench) -> str:
    """A second update while the first one runs."""
    first = _installing(bench, "istio-namespace")
    code, said = bench.up()
    first.communicate()
    if code == 0 or first.returncode:
        raise LabError(f"the first ended with {first.returncode}, the second with {code}")
    return f"the second was refused: {last(said)}"


def _installing(bench: Bench, resource: str) -> subprocess.Popen[str]:
    """An update from nothing that has come to a resource, and goes on."""
    bench.destroy()
    process = bench.start(*UP)
    for text in process.stdout or ():
        if resource in text:
            break
    return process


def _policies(bench: Bench) -> list[tuple[str, str]]:
    """Namespace and name of every PeerAuthentication."""
    found = json.loads(bench.must("kubectl", "get", "peerauthentications", "-A", "-o", "json"))
    return [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in found["items"]]


FAULTS: Final = (
    Fault(name="two-updates", strike=two_updates),
    Fault(name="edited", strike=edited, heals=Typed.REFRESH),
    Fault(name="deleted", strike=deleted, heals=Typed.REFRESH),
    Fault(name="helms-own", strike=helms_own, heals=Typed.REAPPLY),
    Fault(name="crds-deleted", strike=crds_deleted, heals=Typed.REAPPLY),
    Fault(name="namespace-terminating", strike=namespace_terminating, heals=Typed.REFRESH),
    Fault(name="api-server-restarted", strike=api_server_restarted),
    Fault(name="istiod-gone", strike=istiod_gone),
    Fault(name="disk-full", strike=disk_full),
)
"""All but the kills."""


def kills(up_lines: int, destroy_lines: int, count: int, seed: int) -> list[Fault]:
    """Kills of an update and of a destroy in turn, about half of them with all plugins."""

    def one(words: Sequence[str], line: int, *, all_of_it: bool, after_s: float) -> Fault:
        def strike(bench: Bench) -> str:
            if words is UP:
                bench.destroy()
            # between two steps there is time, too: Helm is at work then
            return bench.killed(words, line, all_of_it=all_of_it, wait=lambda: time.sleep(after_s))

        return Fault(name=f"kill-{words[0]}-{line}", strike=strike)

    chosen = random.Random(seed)  # noqa: S311 (it repeats a run)
    half = -(-count // 2)
    ups = points(up_lines, half, seed, of="up")
    destroys = points(destroy_lines, count - half, seed, of="destroy")
    found = []
    for i in range(half):
        for words, lines in ((UP, ups), (DESTROY, destroys)):
            if i < len(lines):
                after_s, all_of_it = chosen.uniform(0, _BETWEEN_S), chosen.random() < 0.5  # noqa: PLR2004
                found.append(one(words, lines[i], all_of_it=all_of_it, after_s=after_s))
    return found


def learn(bench: Bench) -> tuple[int, int]:
    """Do everything once undisturbed: how many steps an update and a destroy have.

    Raises:
        LabError: one of them failed.
    """
    lines = []
    for words in (UP, DESTROY, UP):
        code, said = bench.pulumi(*words)
        if code:
            raise LabError(f"pulumi {words[0]} fails undisturbed:\n{said}")
        lines.append(len(list(steps(said.splitlines()))))
    bench.wanted = bench.found()
    return lines[0], lines[1]


def chaos(around: LabPaths, *, seed: int | None, only: str | None, count: int, limit_s: int) -> int:
    """Run the bench, on a lab that is started for it and gone afterwards.

    Args:
        around: the lab of the checkout, which is left alone; its folder gets another one inside.
        seed: repeats a run's kills; None: any.
        only: faults whose name begins with this; None: all.
        count: how many kills, of an update and of a destroy together.
        limit_s: seconds after which no other fault is begun.

    Returns:
        The exit code: 1 if a fault did not heal with what it is said to heal with.

    Raises:
        LabError: the lab did not start or runs no pods, or there is no such fault.
        ToolchainError: a program could not be had.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    end = time.monotonic() + limit_s
    paths = LabPaths(state=around.state / "chaos")
    try:
        up(paths)
        lab = running(paths)
        if lab is None or lab.isolation is not Isolation.ROOT:
            raise LabError("the bench needs a lab that root has started")
        bench = Bench(paths, open_stack(STACK, paths))
        bench.set(**SETTINGS)
        # last, because the kills take most of the time and are more of the same
        faults = [*FAULTS, *kills(*learn(bench), count, seed)]
        chosen = [one for one in faults if one.name.startswith(only or "")]
        if not chosen:
            names = ", ".join(one.name for one in faults)
            raise LabError(f"ONLY is {only!r}; allowed: the beginning of one of {names}")
        rows, left_out = suffer(bench, chosen, end)
    finally:
        down(paths)
    print(f"\n{table(rows, left_out)}")
    return 0 if all(row.ok for row in rows) else 1


def suffer(bench: Bench, faults: Sequence[Fault], end: float) -> tuple[list[Row], list[str]]:
    """One fault after the other, until the clock says `end`; also the names of the others."""
    rows: list[Row] = []
    for number, fault in enumerate(faults):
        if time.monotonic() > end:
            return rows, [one.name for one in faults[number:]]
        row = bench.suffer(fault)
        rows.append(row)
        typed = row.typed.command if row.typed is not None else "NOTHING HELPED"
        print(f"{row.fault}: {row.happened}\n  {typed}, {row.seconds:.0f} s", flush=True)
        if row.typed is None:
            # the next fault hits a whole stack again
            bench.heal(Typed.DESTROY)
    return rows, []
