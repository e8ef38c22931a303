"""Names of the cluster: what a pod finds, and what it is told does not exist."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
from dns.rdatatype import RdataType

from lab.node import dns as node_dns
from lab.node.dns import answer, records

WEB = "web.mesh.svc.cluster.local"


def _service(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "mesh"}, "spec": spec}


def _clustered(*addresses: str) -> dict[str, Any]:
    return _service(clusterIP=addresses[0], clusterIPs=[*addresses])


def _headless() -> dict[str, Any]:
    return _service(clusterIP="None", clusterIPs=["None"])


def _slice(
    *endpoints: dict[str, Any], service: str = "web", namespace: str = "mesh"
) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": service}
    return {
        "metadata": {"name": f"{service}-x", "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [*endpoints],
    }


def _endpoint(address: str, *, ready: bool | None = True, **more: Any) -> dict[str, Any]:
    conditions = {} if ready is None else {"ready": ready}
    return {"addresses": [address], "conditions": conditions, **more}


def _ask(table: dict[str, list[str]], name: str, kind: str = "A") -> dns.message.Message:
    wire = answer(dns.message.make_query(name, kind).to_wire(), table)
    assert wire is not None
    return dns.message.from_wire(wire)


def _said(response: dns.message.Message) -> set[str]:
    """Type and value of every record of the answer."""
    return {
        f"{RdataType.to_text(found.rdtype)} {value.to_text()}"
        for found in response.answer
        for value in found
    }


def test_a_service_is_found_by_its_cluster_address() -> None:
    response = _ask(records([_clustered("10.96.0.7")], []), WEB)
    assert _said(response) == {"A 10.96.0.7"}
    assert response.rcode() == dns.rcode.NOERROR


def test_an_ipv6_address_of_a_service_is_no_a_record() -> None:
    assert _said(_ask(records([_clustered("10.96.0.7", "fd00::7")], []), WEB)) == {"A 10.96.0.7"}


def test_a_headless_service_is_every_ready_pod_and_no_other() -> None:
    slices = [
        # a condition that is absent counts as ready: the API's own words
        _slice(_endpoint("10.244.0.1"), _endpoint("10.244.0.2", ready=None)),
        _slice(_endpoint("10.244.0.3", ready=False)),
        _slice(_endpoint("10.244.0.4")),
    ]
    found = _said(_ask(records([_headless()], slices), WEB))
    assert found == {"A 10.244.0.1", "A 10.244.0.2", "A 10.244.0.4"}


def test_pods_of_another_service_or_namespace_are_not_mixed_in() -> None:
    slices = [
        _slice(_endpoint("10.244.0.1")),
        _slice(_endpoint("10.244.0.2"), service="web2"),
        _slice(_endpoint("10.244.0.3"), namespace="other"),
        {"metadata": {"name": "hand-made", "namespace": "mesh"}, "endpoints": []},
    ]
    assert _said(_ask(records([_headless()], slices), WEB)) == {"A 10.244.0.1"}


def test_a_headless_service_without_ready_pods_exists_and_has_no_address() -> None:
    response = _ask(records([_headless()], [_slice(_endpoint("10.244.0.1", ready=False))]), WEB)
    assert response.rcode() == dns.rcode.NOERROR
    assert not response.answer


def test_a_pod_with_a_hostname_has_a_name_of_its_own() -> None:
    slices = [
        _slice(
            _endpoint("10.244.0.1", hostname="db-0"),
            _endpoint("10.244.0.2", hostname="db-1"),
            _endpoint("10.244.0.3", hostname="db-2", ready=False),
        )
    ]
    table = records([_headless()], slices)
    assert _said(_ask(table, f"db-1.{WEB}")) == {"A 10.244.0.2"}
    assert _said(_ask(table, WEB)) == {"A 10.244.0.1", "A 10.244.0.2"}
    assert _ask(table, f"db-2.{WEB}").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("kind", ["A", "AAAA", "CNAME"])
@pytest.mark.parametrize("target", ["db.example.com", "db.example.com."])
def test_an_external_name_is_an_alias_whatever_is_asked(target: str, kind: str) -> None:
    table = records([_service(type="ExternalName", externalName=target)], [])
    assert _said(_ask(table, WEB, kind)) == {"CNAME db.example.com."}


@pytest.mark.parametrize(
    "name", ["example.com", "web", "web.mesh", "other.mesh.svc.cluster.local", f"db-0.{WEB}", "."]
)
def test_an_unknown_name_does_not_exist(name: str) -> None:
    response = _ask(records([_clustered("10.96.0.7")], []), name)
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert not response.answer


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "SRV"])
def test_a_known_name_without_such_a_record_is_no_error(kind: str) -> None:
    # NXDOMAIN would make a resolver give up the A record that it asks for at the same time
    response = _ask(records([_clustered("10.96.0.7")], []), WEB, kind)
    assert response.rcode() == dns.rcode.NOERROR
    assert not response.answer


def test_upper_and_lower_case_are_one_name_and_the_question_comes_back_as_it_was() -> None:
    asked = "Web.MESH.svc.Cluster.LOCAL"
    response = _ask(records([_clustered("10.96.0.7")], []), asked)
    assert _said(response) == {"A 10.96.0.7"}
    assert response.question[0].name.to_text(omit_final_dot=True) == asked


def test_an_answer_is_the_last_word_and_belongs_to_its_question() -> None:
    query = dns.message.make_query(WEB, "A")
    wire = answer(query.to_wire(), records([_clustered("10.96.0.7")], []))
    assert wire is not None
    response = dns.message.from_wire(wire)
    assert query.is_response(response)
    assert response.flags & dns.flags.AA  # or a client asks the next server
    assert response.flags & dns.flags.RA


def test_two_questions_in_one_packet_are_an_error() -> None:
    query = dns.message.make_query(WEB, "A")
    query.question += dns.message.make_query(f"x.{WEB}", "A").question
    wire = answer(query.to_wire(), {})
    assert wire is not None
    assert dns.message.from_wire(wire).rcode() == dns.rcode.FORMERR


def test_what_is_no_question_gets_no_answer() -> None:
    query = dns.message.make_query(WEB, "A")
    # an answer to an answer would go to and fro for ever
    response = dns.message.make_response(query).to_wire()
    for packet in (b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", query.to_wire()[:-3], response):
        assert answer(packet, {}) is None


def test_garbage_does_not_end_the_server_and_a_new_table_is_used_at_once() -> None:
    async def scenario() -> None:
        problems: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, problem: problems.append(problem))
        server = node_dns.Server()
        server.table = records([_clustered("10.96.0.7")], [])
        transport, _ = await loop.create_datagram_endpoint(
            lambda: node_dns._Protocol(server), local_addr=("127.0.0.1", 0)
        )
        port = transport.get_extra_info("sockname")[1]
        stray, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
        )
        stray.sendto(b"\xff" * 40)

        async def ask() -> set[str]:
            query = dns.message.make_query(WEB, "A")
            return _said(await dns.asyncquery.udp(query, "127.0.0.1", timeout=5, port=port))

        assert await ask() == {"A 10.96.0.7"}
        server.table = records([_clustered("10.96.0.8")], [])
        assert await ask() == {"A 10.96.0.8"}
        assert problems == []
        stray.close()
        transport.close()

    asyncio.run(scenario())


def test_a_name_has_all_of_many_addresses() -> None:
    pods = [str(ipaddress.ip_address("10.244.0.0") + n) for n in range(1, 41)]
    table = records([_headless()], [_slice(*(_endpoint(pod) for pod in pods))])
    assert _said(_ask(table, WEB)) == {f"A {pod}" for pod in pods}


def test_an_answer_that_is_too_big_for_its_asker_is_cut_and_says_so() -> None:
    table = {WEB: [f"10.244.0.{n}" for n in range(1, 41)]}
    query = dns.message.make_query(WEB, "A", use_edns=0, payload=512)
    wire = answer(query.to_wire(), table)
    assert wire is not None
    assert len(wire) <= 512
    assert dns.message.from_wire(wire).flags & dns.flags.TC
