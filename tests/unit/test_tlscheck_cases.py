"""Every expected row of the worked cases, and of those that istiod was asked, word for word."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tlscheck import MeshConfig, Row, World
from tlscheck.evaluate import rows

FOLDER = Path(__file__).parents[1] / "cases"
WORKED, FOUND = (
    json.loads((FOLDER / f"{name}-cases.json").read_text())["cases"] for name in ("mtls", "found")
)
CASES = [*WORKED, *FOUND]
BY_ID = {case["id"]: case for case in CASES}
EXPECTED = [
    pytest.param(
        case["id"],
        row,
        id="-".join(
            str(part)
            for part in (case["id"], row["from"], row["to"], row["port"], row.get("subset"))
            if part is not None
        ),
    )
    for case in CASES
    for row in case["expect"]
]


@cache
def answers(case: str) -> dict[tuple[object, ...], Row]:
    given = BY_ID[case]
    world = World.parse(given["objects"], MeshConfig.parse(given["mesh"]))
    return {(r.client_name, r.server_name, r.host, r.port, r.subset): r for r in rows(world)}


@pytest.mark.parametrize(("case", "expected"), EXPECTED)
def test_a_row_is_as_the_case_says(case: str, expected: dict[str, Any]) -> None:
    key = tuple(expected.get(name) for name in ("from", "to", "host", "port", "subset"))
    row = answers(case).get(key)

    assert row is not None, f"no such row; there are {sorted(map(str, answers(case)))}"
    found = {
        "client": row.client,
        "server": row.server,
        "effective": row.effective,
        "ok": row.ok,
        "client_rule": row.client_rule,
        "server_rule": row.server_rule,
    }
    wanted = {name: value for name, value in expected.items() if name in found}
    assert {name: found[name] for name in wanted} == wanted, row.why


def test_all_the_cases_are_there() -> None:
    assert (len(WORKED), len(BY_ID)) == (25, 25 + len(FOUND))
    assert sum(len(case["expect"]) for case in WORKED) == 69
    assert all(case["expect"] for case in FOUND)
