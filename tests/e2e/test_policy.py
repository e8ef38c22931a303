"""The guard rails in the real engine: what a preview lets pass, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Mesh, Result

pytestmark = pytest.mark.e2e

PRODUCTION = {"production": "true", "replicas": "2", "keepCrds": "true"}
EXCEPTION = {
    "mtlsExceptions[0].selector.app": "ratings",
    "mtlsExceptions[0].mode": "PERMISSIVE",
    "mtlsExceptions[0].reason": "called by a job outside the mesh",
}
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
    [{}, PRODUCTION, {**EXCEPTION, **LAST_DAY}, FAULT],
    ids=["dev", "production", "exception", "fault"],
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
    ],
    ids=["not-strict", "exception-for-ever", "crds", "replicas"],
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
