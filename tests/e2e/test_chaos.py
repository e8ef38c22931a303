"""An update that was killed, one beside another, and drift: what brings the declared state back.

The short form of `make chaos`: a few of its faults, on the lab that the tests share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.chaos import DESTROY, SETTINGS, STACK, UP, Bench, Fault, Typed
from lab.chaos_faults import FAULTS
from lab.stack import open_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e

_SHORT = ("two-updates", "edited", "helms-own", "namespace-terminating")
"""Faults that take half a minute or less."""


@pytest.fixture(scope="module")
def bench(mesh: Mesh) -> Iterator[Bench]:
    """The bench's own small stack, whole, on an otherwise empty lab."""
    mesh.pulumi("destroy", "--yes", "--skip-preview")
    found = Bench(mesh.paths, open_stack(STACK, mesh.paths))
    found.set(**SETTINGS)
    code, said = found.up()
    assert code == 0, said
    found.wanted = found.found()
    try:
        yield found
    finally:
        found.destroy()
        for file in mesh.paths.state.glob(f"Pulumi.{STACK}.*"):
            file.unlink()


def test_an_update_killed_while_helm_installs_is_finished_by_the_next_one(bench: Bench) -> None:
    bench.destroy()
    bench.killed(
        UP, "istio-istiod", all_of_it=True, wait=lambda: bench.until("istiod", "pending-install")
    )
    typed, why = bench.heal(Typed.UP)
    assert typed is Typed.UP, why


@pytest.mark.parametrize("release", ["istio-istiod", "istio-base"])
def test_what_a_killed_destroy_had_half_deleted_is_whole_after_an_update(
    bench: Bench, release: str
) -> None:
    bench.killed(DESTROY, release, all_of_it=release == "istio-istiod")
    typed, why = bench.heal(Typed.UP)
    assert typed is Typed.UP, why


@pytest.mark.parametrize(
    "fault",
    [one for one in FAULTS if one.name in _SHORT],
    ids=lambda fault: fault.name,
)
def test_a_fault_heals_with_what_is_said(bench: Bench, fault: Fault) -> None:
    row = bench.suffer(fault)
    assert row.ok, row
    assert row.typed is fault.heals
