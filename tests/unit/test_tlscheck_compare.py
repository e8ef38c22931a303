"""Two sets of objects compared: which edges get another answer, and which are cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tlscheck_objects import (
    ROOT,
    Object,
    dr,
    entry,
    for_app,
    judge,
    pa,
    pod,
    sidecar,
    svc,
)
from tlscheck.compare import Changed, compare
from tlscheck.sources import Found

PERMISSIVE, STRICT = (pa(f"{ROOT}/default", mode) for mode in ("PERMISSIVE", "STRICT"))
WEB = (pod("srv/web"), svc("srv/web"))
OLD = pod("old/cron", "none")


def changes(before: list[Object], after: list[Object]) -> list[Changed]:
    return list(compare(Found(objects=before), Found(objects=after)))


def going_strict(*objects: Object) -> list[Changed]:
    return changes([*objects, PERMISSIVE], [*objects, STRICT])


def told(found: list[Changed]) -> list[str]:
    return [f"{one.client} {one.server} {one.before} {one.after}" for one in found]


def owned(key: str, owner: str, **given: Any) -> Object:
    """A pod that a Deployment has made."""
    made = pod(key, **given)
    made["metadata"]["labels"] |= {"app": owner, "pod-template-hash": "5d"}
    made["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": f"{owner}-5d"}]
    return made


def deployment(key: str) -> Object:
    namespace, name = key.split("/")
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "app"}]}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    return {
        "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def test_strict_cuts_off_who_has_no_sidecar_and_nobody_else() -> None:
    [one] = going_strict(*WEB, OLD, pod("cli/c"))

    assert told([one]) == ["old/cron srv/web PLAINTEXT CONFLICT"]
    assert (one.host, one.port, one.subset) == ("web.srv.svc.cluster.local", 80, None)
    assert "the client has no proxy" in one.why
    assert f"{ROOT}/default" in one.why
    assert one.cut_off
    assert one.worse
    assert not one.better


def test_strict_cuts_off_the_clients_of_a_rule_that_says_plaintext() -> None:
    rule = dr("srv/web", "web", "DISABLE")

    [one] = going_strict(*WEB, rule, pod("cli/c"))

    assert told([one]) == ["cli/c srv/web PLAINTEXT CONFLICT"]
    assert "DestinationRule srv/web sets tls" in one.why


def test_strict_cuts_off_a_headless_service_with_an_endpoint_that_has_no_sidecar() -> None:
    bare = pod("srv/web-1", "none", labels={"app": "web"})

    found = going_strict(pod("srv/web"), bare, svc("srv/web", clusterIP="None"), pod("cli/c"))

    assert "cli/c srv/web PLAINTEXT CONFLICT" in told(found)
    headless = next(one for one in found if one.client == "cli/c")
    assert "headless" in headless.why
    assert not any(one.server == "srv/web-1" for one in found), "plaintext as ever"


def test_the_way_back_is_better_and_cuts_nobody_off() -> None:
    objects = [*WEB, OLD]

    [one] = changes([*objects, STRICT], [*objects, PERMISSIVE])

    assert told([one]) == ["old/cron srv/web CONFLICT PLAINTEXT"]
    assert one.better
    assert not one.cut_off
    assert not one.worse


def test_the_same_objects_have_no_differences_whatever_is_wrong_with_them() -> None:
    objects = [*WEB, OLD, STRICT, entry("cli/out", "example.com")]

    assert changes(objects, list(objects)) == []


def test_a_mode_that_changes_nothing_on_the_wire_is_no_difference() -> None:
    assert going_strict(*WEB, pod("cli/c")) == []


@pytest.mark.parametrize(
    ("mode", "worse"), [("DISABLE", True), ("SIMPLE", True), ("ISTIO_MUTUAL", False)]
)
def test_another_tls_mode_is_worse_where_it_protects_less(mode: str, *, worse: bool) -> None:
    objects = [
        pod("srv/web"),
        svc("srv/web", name="tcp"),
        pod("cli/c"),
        dr("srv/web", "web", "ISTIO_MUTUAL"),
    ]
    found = changes(objects, [*objects[:-1], dr("srv/web", "web", mode)])

    assert [one.worse for one in found] == [True] * worse
    assert [one.better for one in found] == [False] * worse
    assert not any(one.cut_off for one in found)


def test_an_edge_that_is_new_or_gone_is_neither_better_nor_worse() -> None:
    objects = [*WEB, STRICT]

    [new] = changes(objects, [*objects, OLD])
    [gone] = changes([*objects, OLD], objects)

    assert told([new, gone]) == [
        "old/cron srv/web None CONFLICT",
        "old/cron srv/web CONFLICT None",
    ]
    for one in (new, gone):
        assert not {one.worse, one.better, one.cut_off} - {False}
        assert "PeerAuthentication" in one.why


def test_pods_of_a_deployment_are_one_edge_and_the_one_that_loses_counts() -> None:
    servers = [owned(f"srv/web-5d-{n}", "web") for n in range(3)]
    clients = [
        owned("cli/shop-5d-a", "shop"),
        owned("cli/shop-5d-b", "shop", proxy="none"),
    ]

    [one] = going_strict(*servers, svc("srv/web"), *clients)

    assert told([one]) == ["cli/shop srv/web PLAINTEXT CONFLICT"]
    assert one.row.client_name == "cli/shop-5d-b"
    assert one.row.server_name.startswith("srv/web-5d-")


def test_a_pod_that_fails_before_and_after_hides_no_other_that_is_cut_off() -> None:
    closed = owned("srv/web-5d-0", "web")
    closed["metadata"]["labels"]["zone"] = "a"
    free = owned("srv/web-5d-1", "web")
    rest = [svc("srv/web"), OLD, pa("srv/a", "STRICT", selector={"matchLabels": {"zone": "a"}})]

    [one] = going_strict(closed, free, *rest)

    assert told([one]) == ["old/cron srv/web PLAINTEXT CONFLICT"]
    assert one.row.server_name == "srv/web-5d-1"


def test_a_deployment_is_compared_with_the_pods_it_has_had() -> None:
    live = [owned(f"srv/web-5d-{n}", "web") for n in range(2)]
    namespace = {
        "kind": "Namespace",
        "metadata": {"name": "srv", "labels": {"istio-injection": "enabled"}},
    }
    rest = [svc("srv/web"), OLD]

    found = changes([*live, *rest, PERMISSIVE], [deployment("srv/web"), namespace, *rest, STRICT])

    assert told(found) == ["old/cron srv/web PLAINTEXT CONFLICT"]


@pytest.mark.parametrize("bare", ["a", "b"])
def test_of_the_pods_of_a_client_the_one_that_changes_for_the_worst_counts(bare: str) -> None:
    clients = [
        owned(f"cli/shop-5d-{name}", "shop", proxy="none" if name == bare else "sidecar")
        for name in ("a", "b")
    ]
    objects = [*WEB, *clients]

    [one] = changes([*objects, PERMISSIVE, dr("srv/web", "web", "DISABLE")], [*objects, STRICT])

    assert told([one]) == ["cli/shop srv/web PLAINTEXT CONFLICT"]
    assert one.pod == f"cli/shop-5d-{bare}"


@pytest.mark.parametrize("zones", ["ab", "ba"])
def test_of_the_pods_that_a_rollout_replaces_the_worst_counts(zones: str) -> None:
    def web(number: int, zone: str) -> Object:
        made = owned(f"srv/web-5d-{number}", "web")
        made["metadata"]["labels"]["zone"] = zone
        return made

    policy = pa("srv/a", "STRICT", selector={"matchLabels": {"zone": "a"}})
    rest = [svc("srv/web"), OLD, policy]

    found = changes(
        [*rest, *(web(number, zone) for number, zone in enumerate(zones))],
        [*rest, *(web(number, "b") for number in (2, 3))],
    )

    assert told(found) == ["old/cron srv/web CONFLICT PLAINTEXT"]


def test_a_rollout_alone_is_no_difference() -> None:
    old = [owned(f"srv/web-5d-{n}", "web") for n in range(3)]
    new = [owned(f"srv/web-5d-{n}", "web") for n in range(2, 4)]
    rest = [svc("srv/web"), OLD, pod("cli/c"), PERMISSIVE]

    assert changes([*old, *rest], [*new, *rest]) == []


def test_a_pod_alone_does_not_call_itself_and_its_siblings_call_one_another() -> None:
    rule = dr("srv/web", "web", "DISABLE")
    alone = [owned("srv/web-5d-0", "web"), svc("srv/web"), rule]

    assert going_strict(*alone) == []
    assert told(going_strict(*alone, owned("srv/web-5d-1", "web"))) == [
        "srv/web srv/web PLAINTEXT CONFLICT"
    ]


def test_a_service_without_endpoints_has_no_edges_and_a_host_outside_has() -> None:
    objects = [svc("srv/web"), entry("cli/out", "example.com", resolution="DNS"), pod("cli/c")]
    rule = dr("cli/out", "example.com", "SIMPLE")

    [one] = changes(objects, [*objects, rule, dr("srv/web", "web", "ISTIO_MUTUAL")])

    assert told([one]) == ["cli/c example.com PLAINTEXT SIMPLE"]
    assert one.better


def test_pods_that_have_ended_are_nobody() -> None:
    ended = {**OLD, "status": {"phase": "Succeeded"}}

    assert going_strict(*WEB, ended) == []


def test_the_mesh_configuration_among_the_objects_counts() -> None:
    def config(*, auto: bool) -> Object:
        return {
            "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": ROOT},
            "data": {"mesh": f"enableAutoMtls: {auto}"},
        }

    objects = [*WEB, pod("cli/c")]

    [one] = changes([*objects, config(auto=True)], [*objects, config(auto=False)])

    assert told([one]) == ["cli/c srv/web ISTIO_MUTUAL PLAINTEXT"]
    assert one.worse


def test_clients_that_share_a_class_before_may_differ_after() -> None:
    objects = [*WEB, pod("a/one"), pod("b/two"), STRICT]

    found = changes(objects, [*objects, dr("b/web", "web.srv.svc.cluster.local", "DISABLE")])

    assert told(found) == ["b/two srv/web ISTIO_MUTUAL CONFLICT"]


def test_every_port_and_subset_is_an_edge_of_its_own() -> None:
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "tcp", "port": 90, "targetPort": 9090},
    ]
    subsets = [{"name": "v1", "labels": {"app": "web"}}]
    rule = dr("srv/web", "web", subsets=subsets)
    objects = [pod("srv/web"), svc("srv/web", ports=ports), rule, OLD, pod("cli/c")]
    policy = pa("srv/web", "STRICT", selector=for_app("web"))
    policy["spec"]["portLevelMtls"] = {"9090": {"mode": "PERMISSIVE"}}

    found = changes(objects, [*objects, policy])

    assert [(one.client, one.port, one.subset) for one in found] == [("old/cron", 80, None)]
    plain = dr("srv/web", "web", "DISABLE", subsets=subsets)
    found = changes(objects, [*objects[:2], plain, *objects[3:], policy])
    assert [(one.client, one.port, one.subset, str(one.after)) for one in found] == [
        ("cli/c", 80, None, "CONFLICT"),
        ("old/cron", 80, None, "CONFLICT"),
        ("cli/c", 80, "v1", "CONFLICT"),
        ("cli/c", 90, None, "PLAINTEXT"),
        ("cli/c", 90, "v1", "PLAINTEXT"),
    ]


def test_a_client_that_no_longer_sees_the_service_sends_plaintext() -> None:
    objects = [*WEB, pod("cli/c"), STRICT]

    found = changes(objects, [*objects, sidecar("cli/default", "./*")])

    assert told(found) == ["cli/c srv/web ISTIO_MUTUAL CONFLICT"]
    assert "not visible" in found[0].why


# --- the case file, row by row --------------------------------------------------------------------

CASES = json.loads((Path(__file__).parents[1] / "cases" / "mtls-cases.json").read_text())["cases"]
Edge = tuple[str, str, str, int, str]


def row_by_row(objects: list[Object]) -> dict[Edge, str]:
    """Every connection, judged one at a time; the servers of a host that no workload stands for."""
    found: dict[Edge, str] = {}
    for row in judge(*objects):
        if row.possible:
            server = row.host if ":" in row.server_name else row.server_name
            found[row.client_name, server, row.host, row.port, row.subset or ""] = row.effective
    return found


@pytest.mark.parametrize("policy", ["STRICT", "DISABLE", "PERMISSIVE"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_comparison_is_that_of_the_rows(case: Object, policy: str) -> None:
    before = case["objects"]
    after = [*before, pa(f"{ROOT}/a", policy), dr(f"{ROOT}/any", "*.local", "ISTIO_MUTUAL")]
    old, new = row_by_row(before), row_by_row(after)

    found = {
        (one.client, one.server, one.host, one.port, one.subset or ""): (one.before, one.after)
        for one in changes(before, after)
    }

    # several addresses of one host are one server: the worst of them counts, which rows do not say
    single = {edge for edge in {*old, *new} if edge[1] != edge[2]}
    assert {edge: modes for edge, modes in found.items() if edge in single} == {
        edge: (old.get(edge), new.get(edge)) for edge in single if old.get(edge) != new.get(edge)
    }
