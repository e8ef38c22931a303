"""The guard rails in the real engine: what a preview lets pass, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Result

pytestmark = pytest.mark.e2e

PRODUCTION = {"production": "true", "replicas": "2", "keepCrds": "true"}
EXCEPTION = {
    "mtlsExceptions[0].selector.app": "ratings",
    "mtlsExceptions[0].mode": "PERMISSIVE",
    "mtlsExceptions[0].reason": "called by a job outside the mesh",
}
DEBUGGED = {"istiodEnv.UNSAFE_ENABLE_ADMIN_ENDPOINTS": "true"}
LAST_DAY = {"mtlsExceptions[0].expires": "2999-12-31"}
FAULT = {"faults[0].service": "ratings", "faults[0].percent": "50", "faults[0].delay": "2s"}


@pytest.fixture(autouse=True)
def _own_settings(mesh: Mesh) -> Iterator[None]:
    mesh.reset_settings()
    yield
    mesh.reset_settings()


def preview(mesh: Mesh, settings: dict[str, str], *, ok: bool) -> Result:
    for key, value in settings.items():
        mesh.pulumi("config", "set", "--path", key, value)
    return mesh.pulumi("preview", "--policy-pack", "policy", ok=ok)


@pytest.mark.parametrize(
    "settings",
    [{}, PRODUCTION, {**EXCEPTION, **LAST_DAY}, FAULT, DEBUGGED],
    ids=["dev", "production", "exception", "fault", "debug"],
)
def test_a_stack_that_keeps_to_the_rules_passes(mesh: Mesh, settings: dict[str, str]) -> None:
    assert "✅ service-mesh@v" in preview(mesh, settings, ok=True).out


@pytest.mark.parametrize(
    ("settings", "rules"),
    [
        ({"mtlsMode": "PERMISSIVE"}, ["exceptions-say-why", "namespaces-are-strict"]),
        (EXCEPTION, ["exceptions-say-why"]),
        ({**PRODUCTION, "keepCrds": "false"}, ["production-keeps-crds"]),
        ({**PRODUCTION, "replicas": "1"}, ["production-has-replicas"]),
        ({**PRODUCTION, **DEBUGGED}, ["production-without-debug"]),
    ],
    ids=["not-strict", "exception-for-ever", "crds", "replicas", "debug"],
)
def test_a_stack_that_breaks_a_rule_is_refused(
    mesh: Mesh, settings: dict[str, str], rules: list[str]
) -> None:
    refused = preview(mesh, settings, ok=False)

    assert refused.code
    broken = {
        line.split()[2] for line in refused.out.splitlines() if line.strip().startswith("- [")
    }
    assert broken == set(rules), refused.out


@pytest.fixture
def production(mesh: Mesh) -> Iterator[Mesh]:
    """The stack `prod`, where `dev` was: a cluster has one control plane."""
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    production = Mesh(mesh.paths, "prod")
    yield production
    for key in ("production", "keepCrds"):
        production.set(key, "false")
    production.up()
    production.pulumi("destroy", "--yes", "--skip-preview")


def test_production_is_installed_under_the_rules_and_keeps_to_them_afterwards(
    production: Mesh,
) -> None:
    installed = production.up("--policy-pack", "policy")
    assert "✅ service-mesh@v" in installed.out
    assert installed.changes().keys() == {"created"}

    # over what exists, whose outputs the rules are shown
    afterwards = production.make("policy")
    assert "✅ service-mesh@v" in afterwards.out
    assert afterwards.changes().keys() == {"unchanged"}

    assert "❌" not in production.make("verify").out

    kept = production.pulumi("destroy", "--yes", "--skip-preview", ok=False)
    assert kept.code
    assert "protected" in kept.out
    assert production.get("namespace", "bookinfo", "istio-system")
    assert production.get("crd", "-l", "app.kubernetes.io/instance=istio-base")
