"""What the workflows run, run here: actionlint, and the targets on a cluster that is no lab."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from lab.paths import ROOT
from lab.stack import Stack, overlay
from lab.toolchain import ensure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e


def test_actionlint_has_nothing_against_the_workflows() -> None:
    done = subprocess.run(
        ["make", "-s", "actionlint"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("fromJSON(vars.STACKS", "fromJSN(vars.STACKS", 'undefined function "fromJSN"'),
        ("timeout-minutes: 20", "timeout-minuts: 20", 'unexpected key "timeout-minuts"'),
        ("${{ matrix.stack }}", "${{ matrix.stak }}", 'property "stak" is not defined'),
        ("access: preview", "acces: preview", 'missing input "access"'),
    ],
    ids=["function", "key", "matrix", "input"],
)
def test_actionlint_finds_what_is_wrong(
    tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    # actionlint looks for our own actions in a repository only
    (tmp_path / ".git").mkdir()
    file = tmp_path / ".github" / "workflows" / "drift.yml"
    file.write_text(file.read_text().replace(right, wrong))
    program = ensure(["actionlint"]).path("actionlint")
    done = subprocess.run(
        [program, "-shellcheck=", "-pyflakes="],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stdout


@pytest.fixture
def own(mesh: Mesh) -> Iterator[Mesh]:
    """The stack `ci` on a cluster of one's own: the lab, known by its kubeconfig alone."""
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    file = ROOT / "Pulumi.ci-here.yaml"
    settings = yaml.safe_load((ROOT / "Pulumi.ci.yaml").read_text())
    settings["config"] |= overlay(mesh.paths)
    file.write_text(yaml.safe_dump(settings))
    before = mesh.stack
    mesh.stack = Stack(name="ci-here", variables=before.variables, config=None)
    yield mesh
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    mesh.stack = before
    file.unlink()


def test_the_targets_of_the_workflows_work_on_a_cluster_of_ones_own(own: Mesh) -> None:
    own.make("own-cluster")
    assert "✅ service-mesh@v" in own.make("policy").out
    assert own.make("up").changes()["created"]
    proof = own.make("verify").out
    assert "✅" in proof
    assert "❌" not in proof
    own.make("drift")

    own.kubectl("-n", "bookinfo", "scale", "deployment/ratings-v1", "--replicas=3")
    drifted = own.make("drift", ok=False)
    assert drifted.code
    assert "ratings-v1" in drifted.out
    assert "1 => 3" in drifted.out.replace("3 => 1", "1 => 3")

    # nobody is at a runner's keyboard
    own.make("down", PULUMI_SKIP_CONFIRMATIONS="true")
    spaces = {one["metadata"]["name"] for one in own.get("namespace")}
    assert not spaces & {"bookinfo", "istio-system"}
