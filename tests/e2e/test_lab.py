"""The lab itself: what surrounds it, what it survives, and that it stays on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.lifecycle import down, running, up
from lab.paths import ROOT, LabPaths
from lab.sandbox import Isolation

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e


@pytest.fixture
def paths() -> Iterator[LabPaths]:
    paths = LabPaths(state=ROOT / ".lab" / "e2e-lab")
    down(paths)
    yield paths
    down(paths)
    shutil.rmtree(paths.state, ignore_errors=True)


def _kubectl(paths: LabPaths, *words: str) -> str:
    kubectl = [sys.executable, "-m", "lab", "--state", str(paths.state), "run", "--", "kubectl"]
    return subprocess.run(
        [*kubectl, *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_up_twice_is_up_once(paths: LabPaths) -> None:
    first = up(paths)
    pid = (paths.state / "pid").read_text()
    assert up(paths) == first
    assert (paths.state / "pid").read_text() == pid


def test_a_killed_lab_is_replaced_by_a_fresh_one(paths: LabPaths) -> None:
    up(paths)
    _kubectl(paths, "create", "namespace", "left-behind")
    os.kill(int((paths.state / "pid").read_text()), signal.SIGKILL)
    while running(paths):
        pass
    up(paths)
    assert "left-behind" not in _kubectl(paths, "get", "namespaces", "-o", "name")


def test_a_part_of_the_control_plane_that_ends_is_started_again(paths: LabPaths) -> None:
    up(paths)
    file = next(paths.kwok.rglob("pids/kube-controller-manager.pid"))
    before = file.read_text()
    # the file's number is the sandbox's own
    (process,) = (
        pid
        for pid in _processes_of(paths)
        if Path(f"/proc/{pid}/comm").read_text().startswith("kube-controller")
    )
    os.kill(process, signal.SIGKILL)
    # only this process makes the ConfigMap of a new namespace
    _kubectl(paths, "create", "namespace", "tended")
    wait = ("--for=create", "configmap/kube-root-ca.crt", "--timeout=60s")
    _kubectl(paths, "wait", *wait, "-n", "tended")
    assert file.read_text() != before


def test_nothing_survives_down(paths: LabPaths) -> None:
    up(paths)
    assert _processes_of(paths)
    down(paths)
    assert _processes_of(paths) == []
    assert [p.name for p in paths.state.iterdir()] == []


def test_from_inside_there_is_no_way_out(paths: LabPaths) -> None:
    if up(paths).isolation is Isolation.NONE:
        pytest.fail("this machine forbids namespaces: the lab cannot keep its promise here")
    supervisor = _processes_of(paths)[-1]
    routes = subprocess.run(
        ["nsenter", f"--target={supervisor}", "--net", "ip", "route"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "default" not in routes


def test_the_whole_program_runs_where_only_loopback_exists() -> None:
    """Nothing is dialled off this machine: there it would find no route, and the kernel counts."""
    state = ROOT / ".lab" / "e2e-offline"
    lab = f"{sys.executable} -m lab --state {state}"
    script = f"""
        ip link set lo up
        trap '{lab} down' EXIT
        {lab} pulumi -- up --yes --skip-preview --non-interactive
        cat /proc/net/snmp
    """
    done = subprocess.run(
        ["unshare", "--net", "bash", "-euc", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names, counts = (line.split() for line in done.stdout.splitlines() if line.startswith("Ip: "))
    counters = dict(zip(names, counts, strict=True))
    assert counters["OutNoRoutes"] == "0"
    assert int(counters["OutRequests"]) > 0, "the kernel did not count anything"


def test_with_one_user_id_sidecars_prove_every_edge(
    paths: LabPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an ordinary user without newuidmap gets; the namespaces are the same when root asks."""
    monkeypatch.setenv("LAB_ISOLATION", "single-uid")
    lab = [sys.executable, "-m", "lab", "--state", str(paths.state)]
    for words in (
        ["pulumi", "--", "up", "--yes", "--skip-preview", "--non-interactive"],
        ["verify"],
    ):
        done = subprocess.run([*lab, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("refused") == done.stdout.count("✅") > 0


def test_without_namespaces_the_control_plane_still_runs(
    paths: LabPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_ISOLATION", "none")
    assert up(paths).isolation is Isolation.NONE
    listening = subprocess.run(
        ["ss", "--listening", "--tcp", "--numeric", "--no-header", "--processes"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ours = [line.split()[3] for line in listening.splitlines() if "kube-" in line or "kwok" in line]
    assert ours
    assert {address.rpartition(":")[0] for address in ours} == {"127.0.0.1"}
    lab = [sys.executable, "-m", "lab", "--state", str(paths.state)]
    install = [*lab, "pulumi", "--", "up", "--yes", "--skip-preview", "--non-interactive"]
    done = subprocess.run(install, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    pods = json.loads(_kubectl(paths, "get", "pods", "-n", "bookinfo", "-o", "json"))["items"]
    containers = [c["name"] for p in pods for c in p["spec"].get("initContainers", [])]
    assert "istio-proxy" in containers, "the injector did not answer through the proxy"


def _processes_of(paths: LabPaths) -> list[int]:
    """Processes whose command line names the lab's folder, oldest first."""
    needle = str(paths.state).encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and needle in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(set(found) - {os.getpid()})
