"""The stand-in for a trace collector: what proxies send it, and how it is asked."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from lab.apps import calls, otlp_collector
from lab.apps.httpd import Request
from lab.apps.otlp_collector import EXPORT, Collector, Span
from lab.node.images import PROGRAMS, Images
from lab.sandbox import Isolation
from lab.toolchain import Tools
from lab.toolchain.sources import Found

ROOT = Path(__file__).resolve().parents[2]
HERE = "127.0.0.1"
RECORDED = base64.b64decode((ROOT / "tests/cases/envoy-otlp-spans.txt").read_text())
"""What the sidecar of ratings sent for one request, from the lab's Envoy 1.40."""

TRACE = "0586d85d688579b22519990f2e5a9733"


def span(number: int, trace: str = "aa", service: str = "web", parent: str = "") -> Span:
    return Span(
        service=service,
        trace=trace,
        id=f"{number:016x}",
        parent=parent,
        name="GET",
        kind="client",
        start_ns=number * 1000,
        end_ns=number * 1000 + 2999,
        attributes={},
    )


def ask(collector: Collector, target: str) -> tuple[int, Any]:
    response = collector.answer(Request("GET", target, {}, b"", "here:1"))
    return response.status, json.loads(response.body)


# --- OTLP ----------------------------------------------------------------------------------------


def test_what_envoy_sent_is_read_as_its_span() -> None:
    (found,) = otlp_collector.spans(RECORDED)
    assert found[:8] == (
        "ratings.bookinfo",
        TRACE,
        "75cef059419eb67a",
        "75c5fe1e793479c3",
        "ratings.bookinfo.svc.cluster.local:9080/*",
        "server",
        1795437677095949000,
        1795437677098018000,
    )
    assert found.attributes["http.url"] == "http://ratings:9080/ratings/0"
    assert found.attributes["http.status_code"] == "200"


def test_several_batches_in_one_request_are_all_read() -> None:
    # messages in protobuf's wire format, one after the other, are one message
    assert [s.trace for s in otlp_collector.spans(RECORDED * 2)] == [TRACE, TRACE]
    assert otlp_collector.spans(b"") == []


def test_spans_without_a_service_say_so() -> None:
    # resource_spans { scope_spans { spans { trace_id: "\x01" } } }
    (found,) = otlp_collector.spans(b"\x0a\x07\x12\x05\x12\x03\x0a\x01\x01")
    assert (found.service, found.trace, found.parent) == ("unknown_service", "01", "")
    assert (found.kind, found.start_ns) == ("unspecified", 0)


@pytest.mark.parametrize("bad", [RECORDED[:-1], b"\xff", b"\x0a\x02\x12\x05"])
def test_what_is_no_request_is_refused(bad: bytes) -> None:
    with pytest.raises(DecodeError):
        otlp_collector.spans(bad)


# --- questions -----------------------------------------------------------------------------------


def test_spans_of_one_trace_are_given_together_with_their_services() -> None:
    collector = Collector()
    collector.add([span(1), span(3, trace="bb")])
    collector.add([span(2, service="db", parent="0000000000000001")])
    (trace,) = collector.traces("db")
    assert trace["traceID"] == "aa"
    assert [
        (s["spanID"][-1], trace["processes"][s["processID"]]["serviceName"], s["startTime"])
        for s in trace["spans"]
    ] == [("1", "web", 1), ("2", "db", 2)]
    assert [s["references"] for s in trace["spans"]] == [
        [],
        [{"refType": "CHILD_OF", "traceID": "aa", "spanID": "0000000000000001"}],
    ]
    assert trace["spans"][0]["duration"] == 2
    assert trace["spans"][0]["tags"] == [{"key": "span.kind", "type": "string", "value": "client"}]
    assert len(collector.traces("web")) == 2
    assert collector.traces("nobody") == []


def test_it_is_asked_as_jaeger_is() -> None:
    collector = Collector()
    collector.add([span(1), span(2, service="db")])
    assert ask(collector, "/api/services") == (200, {"data": ["db", "web"]})
    status, found = ask(collector, "/api/traces?service=db&limit=20")
    assert (status, found["data"][0]["traceID"]) == (200, "aa")
    for target, refusal in (
        ("/api/traces", 400),
        ("/api/traces?service=", 400),
        ("/api/traces/aa", 404),
        ("/", 404),
    ):
        assert ask(collector, target)[0] == refusal, target


def test_the_oldest_spans_go_when_there_are_too_many() -> None:
    collector = Collector(most=2)
    collector.add([span(1, trace="aa"), span(2, trace="bb"), span(3, trace="cc")])
    assert [trace["traceID"] for trace in collector.traces("web")] == ["bb", "cc"]


# --- the program ---------------------------------------------------------------------------------


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    words = ("--host", HERE, "--otlp", "0", "--page", "0")
    with subprocess.Popen(
        [sys.executable, "-m", "lab.apps.otlp_collector", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def send(port: int, method: str, message: bytes) -> bytes:
    with grpc.insecure_channel(f"{HERE}:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return call(message, timeout=5)


def test_the_program_takes_spans_over_grpc_and_ends_when_asked(
    program: subprocess.Popen[bytes],
) -> None:
    assert program.stdout is not None
    ports = json.loads(program.stdout.readline())
    assert send(ports["otlp"], EXPORT, RECORDED) == b""
    address = f"http://{HERE}:{ports['page']}/api/traces?service=ratings.bookinfo"
    (trace,) = json.loads(calls.fetch(address, {}, 5).body)["data"]
    assert trace["traceID"] == TRACE
    program.terminate()
    assert program.wait(timeout=5) == 0


def test_the_program_keeps_nothing_of_a_request_it_refuses(
    program: subprocess.Popen[bytes],
) -> None:
    assert program.stdout is not None
    ports = json.loads(program.stdout.readline())
    for method, message, code in (
        (EXPORT, RECORDED[:-1], grpc.StatusCode.INTERNAL),
        (EXPORT.replace("trace", "logs"), RECORDED, grpc.StatusCode.UNIMPLEMENTED),
    ):
        with pytest.raises(grpc.RpcError) as refusal:
            send(ports["otlp"], method, message)
        assert refusal.value.code() is code
    found = calls.fetch(f"http://{HERE}:{ports['page']}/api/services", {}, 5)
    assert json.loads(found.body) == {"data": []}


def test_its_image_has_the_packages_that_the_others_are_started_without() -> None:
    found = {name: Found(path=Path("/bin") / name, version="1", source="test") for name in PROGRAMS}
    images = Images(Tools(bin_dir=Path("/bin"), share=Path("/share"), found=found))
    for name, isolated in (("otlp-collector", False), ("echo", True), ("client", True)):
        image = images.find(f"service-mesh.lab/{name}", Isolation.ROOT)
        assert image is not None
        assert ("-S" in image.entrypoint) is isolated, name
