"""The short form of `make truth`, on a lab of its own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from lab.lifecycle import down
from lab.paths import ROOT, LabPaths
from lab.truth.__main__ import FILES, read, run
from lab.truth.compare import differences
from lab.truth.variants import variants

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

_CHOSEN = {"O05", "O10", "O13", "O18", "O19", "O23"}


@pytest.fixture
def paths() -> Iterator[LabPaths]:
    found = LabPaths(state=ROOT / ".lab" / "e2e-truth")
    down(found)
    try:
        yield found
    finally:
        down(found)
        shutil.rmtree(found.state)


def test_tlscheck_says_what_istiod_sends(paths: LabPaths) -> None:
    every = read(*FILES)
    cases = [case for case in every if case["id"] in _CHOSEN]
    found, failed = run(paths, [*cases, *variants(read(FILES[0]), 1, 6)])

    assert not failed
    assert {one.case for one in found} >= _CHOSEN
    assert len(found) > 60
    assert differences(found) == []
