"""What the sniffer takes for TLS and for clear text."""

from __future__ import annotations

import struct

import pytest

from lab.wire import _TLS_RECORDS, payload

_TCP, _UDP = 6, 17
_ETHERNET = bytes(12) + b"\x08\x00"
_CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303")


def _frame(data: bytes, *, ip_options: bytes = b"", tcp_options: bytes = b"") -> bytes:
    offset = (20 + len(tcp_options)) // 4 << 4
    segment = struct.pack("!HHIIBBHHH", 43210, 9080, 1, 1, offset, 0x18, 512, 0, 0)
    return _packet(_TCP, segment + tcp_options + data, ip_options)


def _packet(protocol: int, inside: bytes, options: bytes = b"") -> bytes:
    version = 0x40 | (20 + len(options)) // 4
    length = 20 + len(options) + len(inside)
    addresses = bytes([10, 244, 0, 1, 10, 244, 0, 2])
    header = struct.pack("!BBHHHBBH", version, 0, length, 7, 0, 64, protocol, 0)
    return _ETHERNET + header + addresses + options + inside


@pytest.mark.parametrize("tcp_options", [b"", bytes(12), bytes(40)], ids=["none", "usual", "most"])
@pytest.mark.parametrize("ip_options", [b"", bytes(4), bytes(40)], ids=["none", "one", "most"])
def test_a_payload_begins_after_both_headers(ip_options: bytes, tcp_options: bytes) -> None:
    frame = _frame(b"GET / HTTP/1.1", ip_options=ip_options, tcp_options=tcp_options)
    assert payload(frame) == b"GET / HTTP/1.1"


def test_the_padding_of_a_short_frame_is_no_payload() -> None:
    # Ethernet fills a frame up to 60 bytes
    assert payload(_frame(b"") + bytes(6)) == b""
    assert payload(_frame(b"ok") + bytes(4)) == b"ok"


def test_what_is_not_tcp_has_no_payload() -> None:
    assert payload(_packet(_UDP, b"\x16\x03 a datagram that looks like TLS")) == b""
    arp = bytes.fromhex("00010800060400010211223344550af40001" + "00" * 6 + "0af40002")
    assert payload(bytes(12) + b"\x08\x06" + arp) == b""


@pytest.mark.parametrize(("port", "heard"), [(9080, True), (43210, True), (15012, False)])
def test_one_port_of_either_side_can_be_listened_to(port: int, *, heard: bool) -> None:
    assert (payload(_frame(_CLIENT_HELLO), port) == _CLIENT_HELLO) == heard


@pytest.mark.parametrize("length", [0, 1, 13, 14, 20, 33])
def test_less_than_an_ip_header_has_no_payload(length: int) -> None:
    assert payload(_frame(b"GET / HTTP/1.1")[:length]) == b""


@pytest.mark.parametrize("length", [34, 40, 46, 53])
def test_less_than_a_tcp_header_has_no_payload(length: int) -> None:
    assert payload(_frame(b"GET / HTTP/1.1")[:length]) == b""


def test_a_fragment_that_is_shorter_than_a_tcp_header_has_no_payload() -> None:
    assert payload(_packet(_TCP, b"12345678")) == b""


@pytest.mark.parametrize(
    "record",
    [_CLIENT_HELLO, b"\x17\x03\x03\x00\x20", b"\x14\x03\x03\x00\x01\x01", b"\x15\x03\x03\x00\x02"],
    ids=["handshake", "data", "change-cipher-spec", "alert"],
)
def test_a_tls_record_is_recognised(record: bytes) -> None:
    assert payload(_frame(record, tcp_options=bytes(12)))[:2] in _TLS_RECORDS


@pytest.mark.parametrize(
    "data", [b"", b"\x16", b"GET /", b"HTTP/1.1 200 OK", b"PRI * HTTP/2.0", b"\x16\x02"]
)
def test_clear_text_and_an_empty_segment_are_no_tls_record(data: bytes) -> None:
    assert payload(_frame(data))[:2] not in _TLS_RECORDS
