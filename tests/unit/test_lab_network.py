"""Service rules of the node: every ready endpoint, each with the same chance."""

from __future__ import annotations

from lab.node.network import AddressPool, service_rules


def _service(**spec: object) -> dict[str, object]:
    ports = [{"name": "http", "port": 9080, "protocol": "TCP"}]
    return {
        "metadata": {"namespace": "bookinfo", "name": "reviews"},
        "spec": {"clusterIPs": ["10.96.0.7"], "ports": ports, **spec},
    }


def _slice(*ready: bool | None) -> dict[str, object]:
    return {
        "metadata": {
            "namespace": "bookinfo",
            "labels": {"kubernetes.io/service-name": "reviews"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9080}],
        "endpoints": [
            {"addresses": [f"10.244.0.{n}"], "conditions": {} if r is None else {"ready": r}}
            for n, r in enumerate(ready, start=1)
        ],
    }


def _targets(rules: str) -> list[str]:
    return [line.rpartition(" ")[2] for line in rules.splitlines() if "DNAT" in line]


def test_every_ready_endpoint_is_a_target_and_no_other() -> None:
    rules = service_rules([_service()], [_slice(True, False, None)])
    # a condition that is absent counts as ready: the API's own words
    assert _targets(rules) == ["10.244.0.1:9080", "10.244.0.3:9080"]


def test_each_of_three_endpoints_gets_a_third_of_the_connections() -> None:
    rules = service_rules([_service()], [_slice(True, True, True)])
    chances = [line.partition("--probability ")[2].split()[:1] for line in rules.splitlines()]
    # the second is asked only when the first was not chosen: 1/3, then 1/2, then all that is left
    assert [c[0] for c in chances if c] == ["0.333333", "0.500000"]
    assert len(_targets(rules)) == 3


def test_a_headless_service_has_no_rule() -> None:
    rules = service_rules([_service(clusterIPs=["None"])], [_slice(True)])
    assert _targets(rules) == []


def test_a_service_without_ready_endpoints_has_no_rule() -> None:
    assert _targets(service_rules([_service()], [_slice(False)])) == []


def test_rules_replace_the_chain_in_one_step() -> None:
    lines = service_rules([], []).splitlines()
    assert lines[0] == "*nat"
    assert lines[1].startswith(":LAB-SERVICES")
    assert lines[-1] == "COMMIT"


def test_no_two_pods_have_one_address() -> None:
    pool = AddressPool()
    first, second = pool.take(), pool.take()
    assert first != second
    pool.give_back(first)
    assert pool.take() not in {first, second}
