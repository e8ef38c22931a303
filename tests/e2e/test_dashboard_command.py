"""`make prometheus` and `make kiali` on the lab, where the one runs and the other is simulated."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from lab.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def observed(mesh: Mesh) -> Iterator[Mesh]:
    """The dev stack, the four included."""
    mesh.reset_settings()
    mesh.up()
    yield mesh
    mesh.pulumi("destroy", "--yes", "--skip-preview")


def _command(mesh: Mesh, *words: str) -> list[str]:
    state = ("--state", str(mesh.paths.state))
    return [sys.executable, "-m", "lab", *state, "dashboard", *words]


def test_prometheus_answers_on_a_local_port_until_ctrl_c(observed: Mesh) -> None:
    observed.kubectl("-n", "istio-system", "rollout", "status", "deployment/prometheus")
    with subprocess.Popen(
        _command(observed, "prometheus"),
        cwd=ROOT,
        env={**os.environ, **observed.stack.variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        said = ""
        for line in running.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        (url,) = re.findall(r"Prometheus: (\S+)", said) or [said]
        with urllib.request.urlopen(f"{url}api/v1/query?query=up", timeout=10) as answer:
            assert json.load(answer)["status"] == "success"
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)
        assert running.returncode == 0
    with socket.socket() as probe:
        port = int(url.rstrip("/").rpartition(":")[2])
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "nothing is left of it"


def test_a_part_that_is_simulated_says_so(observed: Mesh) -> None:
    result = observed.run(*_command(observed, "kiali"), ok=False)
    assert result.code == 1
    assert "error: Kiali is simulated on the lab" in result.out


def test_a_part_without_a_pod_says_what_to_look_at(observed: Mesh) -> None:
    scale = ("-n", "istio-system", "scale", "deployment/prometheus")
    observed.kubectl(*scale, "--replicas=0")
    observed.kubectl("-n", "istio-system", "wait", "--for=delete", "pod", "-l", "app=prometheus")
    result = observed.run(*_command(observed, "prometheus"), ok=False)
    observed.kubectl(*scale, "--replicas=1")
    assert result.code == 1
    assert "error: Prometheus is not ready\n  there is no pod with app=prometheus" in result.out
