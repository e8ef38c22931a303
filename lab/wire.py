"""What is on the wire of a pod: TLS records, or HTTP that anybody could read.

    python -m lab.wire ADDRESS SECONDS [PATTERN] [--port PORT]

runs on the lab's node and prints one line of JSON: how many TCP segments to and from the pod (or
this port of either side, since a sidecar also talks to istiod, in TLS) began with a TLS record, and
how many held the pattern in clear (default `HTTP/1.`).
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import time

_ETH_HEADER = 14
_TCP = 6
_EVERY_PROTOCOL = 3
_TLS_RECORDS = (b"\x14\x03", b"\x15\x03", b"\x16\x03", b"\x17\x03")
"""Change cipher spec, alert, handshake, application data; version 3.x."""


def payload(frame: bytes, port: int | None = None) -> bytes:
    """The TCP payload of an Ethernet frame; empty for anything else, or for another port."""
    packet = frame[_ETH_HEADER:]
    if len(packet) < 20 or packet[9] != _TCP:  # noqa: PLR2004 (an IPv4 header's length)
        return b""
    segment = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
    if len(segment) < 20:  # noqa: PLR2004 (a TCP header's length; a fragment may be shorter)
        return b""
    if port is not None and port.to_bytes(2, "big") not in (segment[:2], segment[2:4]):
        return b""
    return segment[(segment[12] >> 4) * 4 :]


def count(address: str, seconds: float, pattern: bytes, port: int | None = None) -> dict[str, int]:
    """Listen to a pod's interface for some seconds, to one port or to all."""
    route = subprocess.run(
        ["ip", "route", "get", address], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"dev (\S+)", route)
    if found is None:
        raise SystemExit(f"no interface leads to {address}")
    counts = {"tls": 0, "clear": 0}
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL)) as capture:
        capture.bind((found[1], 0))
        capture.settimeout(0.2)
        print("listening", flush=True)
        while time.monotonic() < end:
            try:
                data = payload(capture.recv(65535), port)
            except TimeoutError:
                continue
            counts["tls"] += data[:2] in _TLS_RECORDS
            counts["clear"] += pattern in data
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("seconds", type=float)
    parser.add_argument("pattern", nargs="?", default="HTTP/1.")
    parser.add_argument("--port", type=int)
    given = parser.parse_args()
    print(json.dumps(count(given.address, given.seconds, given.pattern.encode(), given.port)))
