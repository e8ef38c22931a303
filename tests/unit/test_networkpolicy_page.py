"""docs/networkpolicy-vs-mesh.md is what the call graph gives."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from components.access_policy import access_specs
from components.network_policy import NetworkPoliciesArgs, network_policy_specs
from tools.networkpolicy_page import GRAPH, PAGE, page


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run: python -m tools.networkpolicy_page --write"
    )


def test_every_call_has_its_row_and_its_arrow() -> None:
    for call in GRAPH.calls:
        client = "ingress gateway" if call.client == "ingress" else call.client
        assert f"| {client} → {call.server} |" in page()
        assert re.search(rf'svc_{call.client} -->\|"mutual TLS.*"\| svc_{call.server}\n', page())


def test_every_table_has_as_many_cells_in_every_row() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", page(), re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        assert len({row.count("|") for row in table.splitlines()}) == 1, table


def test_the_objects_shown_are_those_that_are_deployed() -> None:
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page(), re.DOTALL)]
    args = NetworkPoliciesArgs(graph=GRAPH, prometheus_namespace="istio-system")
    made: dict[str, Mapping[str, Mapping[str, object]]]
    made = {"AuthorizationPolicy": access_specs(GRAPH), "NetworkPolicy": network_policy_specs(args)}
    assert len(blocks) == 6
    for shown in blocks:
        whole = made[shown["kind"]][shown["metadata"]["name"]]
        part = {key: whole[key] for key in shown["spec"]}
        # one direction of two
        if "policyTypes" in part:
            part["policyTypes"] = shown["spec"]["policyTypes"]
        assert shown["spec"] == part


def test_the_example_of_what_the_mesh_alone_refuses_is_no_request_of_the_graph() -> None:
    rows = [row for row in page().splitlines() if " → " in row and row.startswith("|")]
    assert len(rows) == len(GRAPH.calls)
    for row, call in zip(rows, GRAPH.calls, strict=True):
        method, path = row.split("|")[-2].strip(" `").split()
        assert not any(
            method in one.methods and any(path.startswith(p.rstrip("*")) for p in one.paths)
            for one in call.operations
        ), row
