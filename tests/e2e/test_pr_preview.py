"""The comment on a pull request, of real previews on the lab."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab.paths import ROOT
from policy.guards import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e

MARKER = "<!-- service-mesh preview: service-mesh/dev -->\n"
PAGE = ROOT / "docs" / "pull-request.md"
BEGIN = "<!-- sample:begin -->\n"
CALL = (
    "`bookinfo/reviews-v1`, `bookinfo/reviews-v2`, `bookinfo/reviews-v3` to `bookinfo/ratings-v1`"
)
EXCEPTION = {
    "mtlsExceptions[0].selector.app": "ratings",
    "mtlsExceptions[0].mode": "DISABLE",
    "mtlsExceptions[0].reason": "called by a job outside the mesh",
    "mtlsExceptions[0].expires": "2999-12-31",
}
CANARY = {"canary.service": "reviews", "canary.stable": "v1", "canary.canary": "v3"}


@pytest.fixture(autouse=True)
def _own_settings(mesh: Mesh) -> Iterator[None]:
    mesh.reset_settings()
    yield
    mesh.reset_settings()


@pytest.fixture(scope="module")
def installed(mesh: Mesh) -> Mesh:
    mesh.reset_settings()
    mesh.up()
    return mesh


def choose(mesh: Mesh, settings: dict[str, str]) -> None:
    for key, value in settings.items():
        mesh.pulumi("config", "set", "--path", key, value)


def comment(mesh: Mesh, *, code: int = 0) -> str:
    """What alone is on standard output."""
    lab = (sys.executable, "-m", "lab", "--state", str(mesh.paths.state))
    done = subprocess.run(
        [*lab, "pr-preview", "--stack", "dev"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    assert done.stdout.startswith(MARKER)
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_a_first_install_is_one_comment_that_counts_by_kind(mesh: Mesh) -> None:
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    said = comment(mesh)

    assert "### dev: 96 to create\n" in said
    assert "- create 1 `Deployment` in release `istiod`: `istio-system/istiod`" in said
    assert f"✅ {len(RULES)} rules pass" in said
    assert "48 ISTIO_MUTUAL" in said


def test_a_stack_that_stays_as_it_is_changes_nothing(installed: Mesh) -> None:
    said = comment(installed)

    assert "### dev: no changes\n" in said
    assert "unchanged: " in said
    assert "Updated" not in said


def test_a_canary_step_is_two_lines(installed: Mesh) -> None:
    choose(installed, {**CANARY, "canary.weight": "10"})
    installed.up()
    choose(installed, {"canary.weight": "50"})
    said = comment(installed)
    installed.reset_settings()
    installed.up()

    assert "### dev: 1 to update\n" in said
    changed = [line for line in said.splitlines() if line[:1] in "+-" and "weight" in line]
    assert [line.split() for line in changed] == [
        ["-", "weight:", "90"],
        ["+", "weight:", "50"],
        ["-", "weight:", "10"],
        ["+", "weight:", "50"],
    ]


def test_an_exception_names_the_calls_that_lose_encryption(installed: Mesh) -> None:
    choose(installed, EXCEPTION)
    said = comment(installed, code=1)

    assert "edges lose encryption" in said.splitlines()[2]
    lost = [line for line in said.splitlines() if line.startswith(f"- ❌ {CALL}")]
    assert len(lost) == 1
    assert "port 9080: ISTIO_MUTUAL to PLAINTEXT (a call of the stack's own; " in lost[0]
    # it has a reason and a last day
    assert f"✅ {len(RULES)} rules pass" in said


def test_a_mesh_without_mutual_tls_loses_it_and_breaks_rules(installed: Mesh) -> None:
    installed.pulumi("config", "rm", "mtlsHosts")
    # without the name it is refused: the rule for reviews would go after the policy has changed
    choose(installed, {"mtlsMode": "DISABLE", "mtlsCutOff[0]": "*:*"})
    said = comment(installed, code=1)

    headline = said.splitlines()[2]
    assert "❌ 48 edges lose encryption" in headline
    assert "❌ 2 rules are broken" in headline
    assert "❌ **namespaces-are-strict**" in said
    assert "❌ **exceptions-say-why**" in said


def test_an_object_inside_a_release_is_shown(installed: Mesh) -> None:
    choose(installed, {"traceSampling": "5"})
    said = comment(installed)

    assert "<code>ConfigMap istio-system/values</code> in release <code>istiod</code>" in said
    assert '+        "traceSampling": 5\n' in said
    assert "cluster service-mesh-lab" in said


def test_deletions_come_before_updates(installed: Mesh) -> None:
    choose(installed, {"bookinfo": "false"})
    said = comment(installed)

    assert "### dev: 16 to delete, 1 to update" in said
    assert said.index("#### Replaced and deleted (16)") < said.index("#### Updated (1)")
    assert "- delete 6 `Deployment`: `bookinfo/details-v1`" in said
    assert "gone: " in said


def test_a_password_never_shows(installed: Mesh) -> None:
    password = "correct-horse-battery"  # noqa: S105 # made up here
    installed.pulumi("config", "set", "--secret", "grafanaAdminPassword", password)
    said = comment(installed)

    assert "replace <code>Secret istio-system/grafana</code>" in said
    assert password not in said
    assert base64.b64encode(password.encode()).decode() not in said


def test_a_refused_setting_is_a_comment_too(installed: Mesh) -> None:
    choose(installed, {"mtlsMode": "SOMETIMES"})
    said = comment(installed, code=2)

    assert "### dev: the preview failed ❌\n" in said
    assert 'mtlsMode is "SOMETIMES"\n' in said
    assert "pulumi config set mtlsMode STRICT" in said


def test_the_sample_in_the_docs_is_what_the_lab_says(installed: Mesh) -> None:
    choose(installed, {**EXCEPTION, "traceSampling": "5"})
    said = comment(installed, code=1)

    head, begin, _ = PAGE.read_text().partition(BEGIN)
    if os.environ.get("SAMPLE") == "write":
        PAGE.write_text(head + begin + said)
    assert begin
    assert PAGE.read_text().partition(BEGIN)[2] == said
