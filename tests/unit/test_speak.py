"""What is read from a wire, and when a row counts as spoken."""

from __future__ import annotations

import http.client
import json
import ssl
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.apps.either import Either, context
from lab.lifecycle import LabError
from lab.playground import Answer
from lab.truth import flows, speak
from lab.truth.batch import Batch, batches
from lab.truth.speak import CLEAR, MTLS, TLS, Heard, Spoken
from tlscheck import Client, Effective, Row, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = json.loads((Path(__file__).parent.parent / "cases" / "mtls-cases.json").read_text())[
    "cases"
]


def _hello(name: str | None, offered: list[str]) -> bytes:
    """The first bytes of a client of the standard library."""
    tls = ssl.create_default_context()
    tls.check_hostname = False
    if offered:
        tls.set_alpn_protocols(offered)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


SNI = "outbound_.80_._.web.srv.svc.cluster.local"


@pytest.mark.parametrize(
    ("name", "offered"), [(SNI, ["istio-peer-exchange", "istio"]), ("web", []), (None, ["h2"])]
)
def test_a_client_hello_tells_the_name_and_the_protocols(
    name: str | None, offered: list[str]
) -> None:
    assert flows.hello(_hello(name, offered)) == (name or "", offered)


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05\x02\0\0\0\0"]
)
def test_other_bytes_are_no_client_hello(data: bytes) -> None:
    assert flows.hello(data) is None


def test_a_client_hello_cut_off_anywhere_is_still_one() -> None:
    whole = _hello(SNI, ["istio"])
    for length in range(9, len(whole)):
        assert flows.hello(whole[:length]) is not None


def _frame(
    payload: bytes, *, sequence: int = 7, protocol: int = 6, version: int = 4, options: int = 0
) -> bytes:
    tcp = struct.pack("!HHII", 40000, 8080, sequence, 0) + bytes([(5 + options) << 4, 0])
    tcp += bytes(6 + 4 * options) + payload
    ip = bytes([version << 4 | 5, 0]) + struct.pack("!H", 20 + len(tcp)) + bytes(5)
    ip += bytes([protocol, 0, 0]) + bytes([10, 0, 0, 1]) + bytes([10, 0, 0, 2])
    return bytes(14) + ip + tcp


def test_a_segment_is_told_with_its_ends_and_without_headers_and_padding() -> None:
    ends = ("10.0.0.1", 40000, "10.0.0.2", 8080)
    assert flows.segment(_frame(b"hello", options=3) + b"\0\0") == (ends, 7, b"hello")


@pytest.mark.parametrize("frame", [b"", _frame(b"x", protocol=17), _frame(b"x", version=6)])
def test_what_is_not_tcp_is_passed_over(frame: bytes) -> None:
    assert flows.segment(frame) is None


def test_bytes_are_put_in_order_also_where_sequence_numbers_go_round() -> None:
    late, last = (1 << 32) - 2, 1
    assert flows.joined({last: b"c", late: b"ab"}) == b"abc"


def test_only_a_request_that_can_be_read_is_named() -> None:
    ends = ("10.0.0.1", 40000, "10.0.0.2", 8080)
    clear = flows.flow(ends, b"GET /said-3-0 HTTP/1.1\r\n\r\nGET /said-4-1 HTTP/1.1\r\n\r\n")
    assert (clear.said, clear.tls) == (["said-3-0", "said-4-1"], False)
    hidden = flows.flow(ends, _hello(SNI, ["istio"]))
    assert (hidden.said, hidden.tls, hidden.sni, hidden.alpn) == ([], True, SNI, ["istio"])


@pytest.fixture
def either() -> Iterator[int]:
    """The port of a running application."""
    server = Either(context(speak._certificate()), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def _trusting() -> ssl.SSLContext:
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return tls


def _asked(connection: http.client.HTTPConnection) -> bool:
    connection.request("GET", "/")
    told: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return bool(told["tls"])


def test_the_application_answers_in_the_clear_and_over_tls_on_one_port(either: int) -> None:
    assert _asked(http.client.HTTPSConnection("127.0.0.1", either, context=_trusting()))
    assert not _asked(http.client.HTTPConnection("127.0.0.1", either))


def test_the_application_outlives_a_client_that_does_not_trust_it(either: int) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        _asked(http.client.HTTPSConnection("127.0.0.1", either))
    assert not _asked(http.client.HTTPConnection("127.0.0.1", either))


def test_a_machine_without_openssl_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LabError, match="openssl"):
        speak._certificate()


def _answer(*, tls: bool = False, pod: str = "web") -> Answer:
    return Answer(
        status=200, error=None, headers={}, body=json.dumps({"hostname": pod, "tls": tls})
    )


def _spoken(client: Client, effective: Effective, heard: Heard) -> Spoken:
    row = Row(
        client_name="cli/c",
        server_name="srv/web",
        host="web.srv.svc.cluster.local",
        port=80,
        subset=None,
        client=client,
        server=Server.PERMISSIVE,
        effective=effective,
        reason="",
        why="",
        client_rule=None,
        server_rule=None,
    )
    return Spoken(case="O", row=row, heard=heard)


def _heard(
    *wire: str, answered: bool = True, certificate: bool = False, tls: bool = False
) -> Heard:
    answers = (_answer(tls=tls),) if answered else ()
    return Heard(wire=frozenset(wire), answers=answers, certificate=certificate)


MUTUAL_SEEN = _heard(MTLS, certificate=True)
CLEAR_SEEN = _heard(CLEAR)
SIMPLE_SEEN = _heard(TLS, tls=True)


@pytest.mark.parametrize(
    ("client", "effective", "heard"),
    [
        (Client.ISTIO_MUTUAL, Effective.ISTIO_MUTUAL, MUTUAL_SEEN),
        (Client.PLAINTEXT, Effective.PLAINTEXT, CLEAR_SEEN),
        (Client.NO_PROXY, Effective.PLAINTEXT, CLEAR_SEEN),
        (Client.SIMPLE, Effective.SIMPLE, SIMPLE_SEEN),
        (Client.ISTIO_MUTUAL, Effective.CONFLICT, _heard(MTLS, answered=False)),
        (Client.PLAINTEXT, Effective.CONFLICT, _heard(CLEAR, answered=False)),
        (Client.SIMPLE, Effective.CONFLICT, _heard(TLS, answered=False)),
    ],
)
def test_a_row_that_went_as_it_was_judged_is_no_problem(
    client: Client, effective: Effective, heard: Heard
) -> None:
    assert _spoken(client, effective, heard).problem is None


@pytest.mark.parametrize(
    ("client", "effective", "heard", "problem"),
    [
        (Client.ISTIO_MUTUAL, Effective.ISTIO_MUTUAL, CLEAR_SEEN, "cleartext on the wire"),
        (Client.ISTIO_MUTUAL, Effective.ISTIO_MUTUAL, _heard(MTLS), "no client certificate"),
        (
            Client.ISTIO_MUTUAL,
            Effective.ISTIO_MUTUAL,
            _heard(MTLS, answered=False),
            "was not answered",
        ),
        (
            Client.ISTIO_MUTUAL,
            Effective.ISTIO_MUTUAL,
            _heard(MTLS, CLEAR, certificate=True),
            "cleartext and mutual TLS on the wire",
        ),
        (
            Client.ISTIO_MUTUAL,
            Effective.ISTIO_MUTUAL,
            _heard(MTLS, certificate=True, tls=True),
            "TLS ended in the application",
        ),
        (Client.PLAINTEXT, Effective.PLAINTEXT, MUTUAL_SEEN, "mutual TLS on the wire"),
        (
            Client.PLAINTEXT,
            Effective.PLAINTEXT,
            _heard(CLEAR, certificate=True),
            "a client certificate",
        ),
        (Client.SIMPLE, Effective.SIMPLE, _heard(TLS), "did not end in the application"),
        (Client.SIMPLE, Effective.SIMPLE, MUTUAL_SEEN, "mutual TLS on the wire"),
        (Client.PLAINTEXT, Effective.CONFLICT, CLEAR_SEEN, "was answered"),
        (Client.PLAINTEXT, Effective.CONFLICT, _heard(answered=False), "nothing on the wire"),
    ],
)
def test_a_row_that_went_otherwise_is_told(
    client: Client, effective: Effective, heard: Heard, problem: str
) -> None:
    assert problem in str(_spoken(client, effective, heard).problem)


def test_the_table_has_every_row_and_counts_what_differs() -> None:
    good = _spoken(Client.PLAINTEXT, Effective.PLAINTEXT, CLEAR_SEEN)
    bad = _spoken(Client.PLAINTEXT, Effective.CONFLICT, CLEAR_SEEN)
    _, first, second, _, last = speak.table([good, bad, good])
    assert first.endswith("✅")
    assert second.endswith("❌ it was answered")
    assert last == "spoken 3 rows: 2 agree, 1 differ"


def _case(number: str) -> dict[str, Any]:
    return next(one for one in CASES if one["id"] == number)


def _batch(*numbers: str) -> Batch:
    (batch,) = batches([_case(number) for number in numbers])
    return batch


def _pods(batch: Batch) -> dict[str, dict[str, Any]]:
    """Pods as they are sent, by their names in the case."""
    prefix = batch.parts[0].names.prefix
    objects = [speak._spoken(one) for one in batch.objects]
    rows = [row for _, row in speak._chosen(batch, objects)]
    return {
        speak._name(one).removeprefix(prefix): one
        for one in speak._live(objects, rows)
        if one["kind"] == "Pod"
    }


def test_at_least_thirty_rows_of_every_outcome_can_be_spoken() -> None:
    found = [
        (row.client, row.effective)
        for batch in batches([case for case in CASES if speak.speakable(case)])
        for _, row in speak._chosen(batch, [speak._spoken(one) for one in batch.objects])
    ]
    assert len(found) >= 30
    assert {effective for _, effective in found} >= set(Effective) - {
        Effective.HBONE,
        Effective.MUTUAL,
    }
    assert Client.NO_PROXY in {client for client, _ in found}


@pytest.mark.parametrize("number", ["O22", "O25"])
def test_what_has_no_sidecar_or_no_pod_is_not_spoken(number: str) -> None:
    assert not speak.speakable(_case(number))


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("mesh", {"rootNamespace": "other"}),
        ("objects", [{"kind": "Sidecar"}]),
        ("expect", [{"to": "host:web.srv.svc.cluster.local"}]),
    ],
)
def test_what_the_lab_cannot_make_real_is_not_spoken(change: str, value: Any) -> None:
    assert not speak.speakable({**_case("O01"), change: value})


def test_the_injector_and_not_the_case_gives_a_pod_its_sidecar() -> None:
    pods = _pods(_batch("O15"))
    labels = {name: pod["metadata"]["labels"] for name, pod in pods.items()}
    injected = {name: one["sidecar.istio.io/inject"] for name, one in labels.items()}
    assert injected == {"cli/c": "true", "mig/m-vistio": "true", "mig/m-vlegacy": "false"}
    for pod in pods.values():
        assert "security.istio.io/tlsMode" not in pod["metadata"]["labels"]
        assert "sidecar.istio.io/status" not in pod["metadata"]["annotations"]
        assert [one["name"] for one in pod["spec"]["containers"]] == ["app"]


def test_an_application_serves_every_port_that_services_lead_to() -> None:
    pods = _pods(_batch("O24"))
    assert pods["perm/web"]["spec"]["containers"][0]["command"][-3:] == ["70", "80", "81"]
    assert "command" not in pods["cli/c"]["spec"]["containers"][0]


def test_a_headless_service_leads_to_the_port_that_its_clients_dial() -> None:
    (service, *_) = [
        speak._spoken(one) for one in _batch("O23").objects if one["kind"] == "Service"
    ]
    assert [(one["port"], one["targetPort"]) for one in service["spec"]["ports"]] == [(80, 80)]


def test_policies_come_before_pods_and_older_ones_before_newer() -> None:
    objects = _batch("O08").objects
    for one in objects:
        if one["metadata"]["name"] == "newest":
            one["metadata"]["name"] = "a-newest"  # so that its name alone would put it first
    live = speak._live(objects, [])
    kinds = [one["kind"] for one in live]
    assert kinds.index("Pod") > max(n for n, kind in enumerate(kinds) if kind != "Pod")
    names = [one["metadata"]["name"] for one in live if one["kind"] == "PeerAuthentication"]
    assert names == ["aa-old", "bb-old", "a-newest"]


def test_a_subset_is_chosen_by_a_header() -> None:
    batch = _batch("O13")
    rows = [row for _, row in speak._chosen(batch, batch.objects)]
    routes = [one for one in speak._live(batch.objects, rows) if one["kind"] == "VirtualService"]
    assert {one["spec"]["hosts"][0] for one in routes} == {row.host for row in rows}
    by_header, otherwise = routes[0]["spec"]["http"]
    assert by_header["route"][0]["destination"]["subset"] == "off"
    assert "subset" not in otherwise["route"][0]["destination"]


def test_a_batch_is_cut_where_a_machine_could_not_run_it() -> None:
    batch = _batch("O13", "O14", "O15", "O16", "O18", "O19", "O23", "O24")
    parts = list(speak.at_once(batch))
    assert len(parts) > 1
    assert [one for part in parts for one in part.parts] == batch.parts
    assert all(speak._sidecars(part.parts) <= speak._MOST_SIDECARS for part in parts)
    assert {json.dumps(part.mesh) for part in parts} == {json.dumps(batch.mesh)}
