"""What clients said to endpoints, connection by connection: `python -m lab.truth.flows TARGETS`.

Runs on the lab's node. TARGETS are `address:port`; once `listening` is printed, everything that is
sent to one of them is kept. Each line of standard input is answered with one of JSON: the
connections on which something was sent since the line before. Proxies keep connections, so what
one began with is told again with every later use of it.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_ETH_HEADER = 14
_TCP = 6
_EVERY_PROTOCOL = 3
_SO_RCVBUFFORCE = 33
_BUFFER = 64 << 20
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ALPN = 0, 16
_HEADS = 5 + 4
"""Bytes before a ClientHello's own: the record's head and the handshake message's."""

_REQUEST = re.compile(rb"/(said-[0-9a-z-]+) HTTP/1\.")
"""Requests carry their name in the path."""

Connection = tuple[str, int, str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """One connection: what its client sent."""

    client: str
    server: str
    port: int

    said: list[str]
    """Names of the requests that anybody could read."""

    tls: bool
    """It began with a ClientHello."""

    sni: str
    """The name asked for in it; empty without one."""

    alpn: list[str]
    """The protocols offered in it."""


def segment(frame: bytes) -> tuple[Connection, int, bytes] | None:
    """Connection, sequence number and payload of an Ethernet frame; None for anything but TCP."""
    packet = frame[_ETH_HEADER:]
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _TCP:  # noqa: PLR2004 (IPv4's)
        return None
    tcp = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
    if len(tcp) < 20:  # noqa: PLR2004 (a TCP header's length)
        return None
    source, target, sequence = struct.unpack_from("!HHI", tcp)
    ends = (socket.inet_ntoa(packet[12:16]), source, socket.inet_ntoa(packet[16:20]), target)
    return ends, sequence, tcp[(tcp[12] >> 4) * 4 :]


def hello(data: bytes) -> tuple[str, list[str]] | None:
    """Server name and offered protocols of a ClientHello; None where the bytes are none."""
    if len(data) < _HEADS or data[0] != _HANDSHAKE or data[5] != _CLIENT_HELLO:
        return None
    found: dict[int, bytes] = {}
    try:
        at = _HEADS + 2 + 32
        at += 1 + data[at]
        at += 2 + int.from_bytes(data[at : at + 2], "big")
        at += 1 + data[at]
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        at += 2
        while at + 4 <= min(end, len(data)):
            kind, length = struct.unpack_from("!HH", data, at)
            found[kind] = data[at + 4 : at + 4 + length]
            at += 4 + length
    except IndexError:
        pass
    name = found.get(_SERVER_NAME, b"")[5:].decode(errors="replace")
    offered, left = [], found.get(_ALPN, b"")[2:]
    while left:
        offered.append(left[1 : 1 + left[0]].decode(errors="replace"))
        left = left[1 + left[0] :]
    return name, offered


def joined(parts: dict[int, bytes]) -> bytes:
    """A client's bytes in order; a frame is seen on both ends of its way, and may be sent again."""
    first = next(iter(parts))
    # sequence numbers begin anywhere and go round
    order = sorted(parts, key=lambda number: (number - first + (1 << 31)) % (1 << 32))
    return b"".join(parts[number] for number in order)


def flow(ends: Connection, data: bytes) -> Flow:
    """What is to be told of a connection."""
    greeting = hello(data)
    name, offered = greeting or ("", [])
    return Flow(
        client=ends[0],
        server=ends[2],
        port=ends[3],
        said=[one.decode() for one in _REQUEST.findall(data)],
        tls=greeting is not None,
        sni=name,
        alpn=offered,
    )


def listen(targets: set[tuple[str, int]]) -> Iterator[list[dict[str, Any]]]:
    """The connections in use, each time that somebody asks for them."""
    heard: dict[Connection, dict[int, bytes]] = {}
    used: set[Connection] = set()
    every = socket.htons(_EVERY_PROTOCOL)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every) as capture:
        # without the right to it the usual buffer has to do
        with contextlib.suppress(PermissionError):
            capture.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        print("listening", flush=True)
        while True:
            ready, _, _ = select.select([capture, sys.stdin], [], [])
            if capture in ready:
                found = segment(capture.recv(1 << 16))
                if found and found[2] and found[0][2:] in targets:
                    heard.setdefault(found[0], {})[found[1]] = found[2]
                    used.add(found[0])
            elif sys.stdin.readline():  # only when nothing of the wire is left to be read
                yield [asdict(flow(ends, joined(heard[ends]))) for ends in used]
                used.clear()
            else:
                return


if __name__ == "__main__":
    pairs = (one.rpartition(":") for one in sys.argv[1:])
    for connections in listen({(address, int(port)) for address, _, port in pairs}):
        print(json.dumps(connections), flush=True)
