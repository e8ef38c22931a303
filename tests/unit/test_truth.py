"""How cases, and variants of them, are put beside what istiod says; without istiod."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lab.truth.__main__ import keep, read
from lab.truth.batch import Batch, batches, is_wide
from lab.truth.compare import Compared, Seen, differences, judge, total
from lab.truth.variants import PER_MESH, variants
from tlscheck import MeshConfig, Row, evaluate
from tlscheck.envoy import Config

Object = dict[str, Any]

CASES = read(Path(__file__).parents[1] / "cases" / "mtls-cases.json")
BY_ID = {case["id"]: case for case in CASES}


def rows(case: Object) -> tuple[Row, ...]:
    return evaluate(case["objects"], MeshConfig.parse(case["mesh"])).rows


def batch_of(*cases: Object) -> Batch:
    (found,) = batches(list(cases))
    return found


def test_a_seed_makes_the_same_variants_whatever_their_number() -> None:
    assert variants(CASES, 7, 30) == variants(CASES, 7, 40)[:30]
    assert variants(CASES, 7, 30) != variants(CASES, 8, 30)


def test_a_variant_is_a_case_of_its_own_and_leaves_the_cases_alone() -> None:
    before = copy.deepcopy(CASES)
    made = variants(CASES, 7, 2 * PER_MESH)

    assert before == CASES
    assert len({one["id"] for one in made}) == len(made)
    for one in made:
        names = [
            (o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]) for o in one["objects"]
        ]
        assert len(names) == len(set(names))
        assert not evaluate(one["objects"], MeshConfig.parse(one["mesh"])).ignored


def test_no_variant_exports_a_rule_to_its_own_namespace_twice() -> None:
    lists = [
        len({one["metadata"]["namespace"] if to == "." else to for to in given}) == len(given)
        for case in variants(CASES, 3, 200)
        for one in case["objects"]
        if (given := one["spec"].get("exportTo"))
    ]
    assert lists
    assert all(lists)


def test_the_usual_number_of_variants_compares_250_rows() -> None:
    judged = [
        row for one in variants(CASES, 7, 72) for row in rows(one) if row.client != "NO_PROXY"
    ]
    assert len(judged) >= 250


def test_every_mode_of_both_sides_is_among_the_variants() -> None:
    found = [row for one in variants(CASES, 7, 400) for row in rows(one)]

    assert {row.client for row in found} >= {
        "ISTIO_MUTUAL",
        "PLAINTEXT",
        "SIMPLE",
        "BLOCKED",
        "MUTUAL",
    }
    assert {row.server for row in found} == {"STRICT", "PERMISSIVE", "DISABLE", "NO_PROXY"}


def test_variants_of_one_mesh_are_on_the_lab_together() -> None:
    assert len(list(batches(variants(CASES, 7, 2 * PER_MESH)))) == 2


def test_cases_with_other_mesh_wide_objects_are_not_on_the_lab_together() -> None:
    strict, disabled, without = BY_ID["O02"], BY_ID["O03"], BY_ID["O01"]
    assert [len(one.parts) for one in batches([strict, disabled, without, strict])] == [2, 1, 1]


def test_a_case_means_the_same_under_its_names_on_the_lab() -> None:
    every = [*(case for case in CASES if not case["mesh"].get("ambient")), *variants(CASES, 3, 36)]
    for batch in batches(every):
        for part in batch.parts:
            names = part.names
            live = {"objects": [*batch.wide, *part.objects], "mesh": batch.mesh}
            theirs = {
                (r.client_name, r.server_name, r.host, r.port, r.subset): (
                    *(r.client, r.server),
                    *(part.original(rule) for rule in (r.client_rule, r.server_rule)),
                )
                for r in rows(live)
            }
            mine = {
                (
                    names.pod(r.client_name),
                    f"host:{names.host(r.host)}"
                    if r.server_name.startswith("host:")
                    else names.pod(r.server_name),
                    *(names.host(r.host), r.port, r.subset),
                ): (r.client, r.server, r.client_rule, r.server_rule)
                for r in rows(part.case)
            }
            assert theirs == mine, part.case["id"]


def test_no_two_cases_of_a_batch_share_a_name() -> None:
    batch = batch_of(BY_ID["O22"], {**BY_ID["O22"], "id": "again"}, BY_ID["O05"])
    names = [(o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]) for o in batch.objects]
    hosts = [h for o in batch.objects for h in o["spec"].get("hosts", [])]

    assert len(names) == len(set(names))
    assert len(hosts) == len(set(hosts)) == 4


@pytest.mark.parametrize(
    ("host", "wide"),
    [("*", 1), ("*.local", 1), ("*.srv.svc.cluster.local", 0), ("a.srv.svc", 0)],
)
def test_a_root_rule_for_one_case_only_does_not_count_for_the_others(host: str, wide: int) -> None:
    rule = {
        "kind": "DestinationRule",
        "metadata": {"name": "r", "namespace": "istio-system"},
        "spec": {"host": host},
    }
    assert is_wide(rule, "istio-system") == wide
    assert not is_wide(rule, "elsewhere")


def judged(case: Object, *, secure: bool, rule: str = "", strict: bool = True) -> Compared:
    """The first row of a case beside a cluster and a listener."""
    part = batch_of(case).parts[0]
    row = rows(case)[0]
    caller, callee = part.names.pod(row.client_name), part.names.pod(row.server_name)
    host = part.names.host(row.host)
    socket = {
        "typed_config": {
            "@type": "x.UpstreamTlsContext",
            "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "default"}]},
        }
    }
    path = f"/apis/networking.istio.io/v1/namespaces/{rule.replace('/', '/destination-rule/')}"
    cluster: Object = {
        "name": f"outbound|{row.port}||{host}",
        "transport_socket": socket if secure else {},
        "metadata": {"filter_metadata": {"istio": {"config": path}}} if rule else {},
    }
    chain: Object = {"filter_chain_match": {"destination_port": 8080}}
    if strict:
        chain["transport_socket"] = {"name": "tls"}
    name, namespace = host.split(".")[:2]
    seen = Seen(
        sent={
            caller: Config.of([cluster], [], []),
            callee: Config.of([], [], [{"name": "virtualInbound", "filter_chains": [chain]}]),
        },
        addresses={},
        ports={(namespace, name, "http", callee.split("/")[1]): 8080},
    )
    return judge(part, row, seen)


def test_a_row_agrees_when_both_halves_and_the_rule_do() -> None:
    assert judged(BY_ID["O05"], secure=False, rule="o05-srv/web").agrees


@pytest.mark.parametrize(
    "told",
    [
        {"secure": True, "rule": "o05-srv/web"},
        {"secure": False, "rule": "o05-srv/web", "strict": False},
        {"secure": False, "rule": "o05-srv/other"},
        {"secure": False},
    ],
)
def test_a_row_differs_when_one_half_or_the_rule_does(told: Object) -> None:
    found = judged(BY_ID["O05"], **told)
    assert not found.agrees
    assert len(differences([found])) == 1
    assert total([found]) == "compared 1 rows: 0 agree, 1 differ"


def test_a_case_that_differs_is_kept_in_a_file_that_can_be_compared_again(tmp_path: Path) -> None:
    file = keep([BY_ID["O05"]], tmp_path / "new")
    assert read(file) == [BY_ID["O05"]]
    assert json.loads(file.read_text()).keys() == {"cases"}
