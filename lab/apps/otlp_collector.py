"""Takes spans over OTLP/gRPC and gives them as Jaeger's query API does: stands for a collector.

The only program here that needs packages: gRPC is not in the standard library.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

from lab.apps.httpd import Request, Response, Server, log, problem, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_SPANS = 10_000
"""What is kept; then the oldest go."""

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
"""The one method of OTLP for traces."""

_ANONYMOUS = "unknown_service"
"""https://opentelemetry.io/docs/specs/semconv/resource/#service."""

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


class Span(NamedTuple):
    """What is kept of a span."""

    service: str
    trace: str
    id: str
    parent: str
    """Empty: it is a root."""
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str]


class Tag(TypedDict):
    """An attribute; every value is given as text."""

    key: str
    type: str
    value: str


class Reference(TypedDict):
    """A span's parent."""

    refType: str
    traceID: str
    spanID: str


class JaegerSpan(TypedDict):
    """Times are in microseconds."""

    traceID: str
    spanID: str
    operationName: str
    references: list[Reference]
    startTime: int
    duration: int
    tags: list[Tag]
    processID: str


class Process(TypedDict):
    """Who made spans."""

    serviceName: str


class Trace(TypedDict):
    """As in the answer of Jaeger's query service to `GET /api/traces`."""

    traceID: str
    spans: list[JaegerSpan]
    processes: dict[str, Process]


class Collector:
    """The spans that came, as many as are kept."""

    def __init__(self, most: int = MOST_SPANS) -> None:
        self._kept: deque[Span] = deque(maxlen=most)
        self._lock = threading.Lock()

    def add(self, spans: list[Span]) -> None:
        """Keep them, and forget the oldest for it."""
        with self._lock:
            self._kept.extend(spans)

    def answer(self, request: Request) -> Response:
        """`/api/services`, `/api/traces?service=NAME`."""
        match request.parts:
            case ["api", "services"]:
                return reply({"data": sorted({span.service for span in self._spans()})})
            case ["api", "traces"] if service := request.query.get("service"):
                return reply({"data": self.traces(service)})
            case ["api", "traces"]:
                return problem("parameter 'service' is required")
        return problem("not found", 404)

    def traces(self, service: str) -> list[Trace]:
        """All traces in which this service has a span."""
        by_id: dict[str, list[Span]] = {}
        for span in self._spans():
            by_id.setdefault(span.trace, []).append(span)
        return [
            _trace(spans)
            for spans in by_id.values()
            if any(span.service == service for span in spans)
        ]

    def _spans(self) -> list[Span]:
        with self._lock:
            return list(self._kept)


def _trace(spans: list[Span]) -> Trace:
    services = sorted({span.service for span in spans})
    process = {service: f"p{number}" for number, service in enumerate(services, 1)}
    return {
        "traceID": spans[0].trace,
        "spans": [_span(span, process[span.service]) for span in spans],
        "processes": {process[service]: {"serviceName": service} for service in services},
    }


def _span(span: Span, process: str) -> JaegerSpan:
    parent: Reference = {"refType": "CHILD_OF", "traceID": span.trace, "spanID": span.parent}
    tags = {"span.kind": span.kind, **span.attributes}
    return {
        "traceID": span.trace,
        "spanID": span.id,
        "operationName": span.name,
        "references": [parent] if span.parent else [],
        "startTime": span.start_ns // 1000,
        "duration": (span.end_ns - span.start_ns) // 1000,
        "tags": [{"key": key, "type": "string", "value": tags[key]} for key in tags],
        "processID": process,
    }


class _Message:
    """A protobuf message by its fields' numbers.

    Not opentelemetry-proto's classes: xds-protos, which the lab has as well, installs older ones
    over them. The numbers: https://github.com/open-telemetry/opentelemetry-proto.
    """

    def __init__(self, data: bytes) -> None:
        """Read it.

        Raises:
            DecodeError: it is none.
        """
        self._fields: dict[int, list[int | bytes]] = {}
        found = UnknownFieldSet(Empty.FromString(data))
        for field in (found[index] for index in range(len(found))):
            self._fields.setdefault(field.field_number, []).append(field.data)

    def messages(self, number: int) -> list[_Message]:
        """The values of a repeated field."""
        values = self._fields.get(number, [])
        return [_Message(value) for value in values if isinstance(value, bytes)]

    def data(self, number: int) -> bytes:
        """A field's bytes; none where it is not set."""
        value = self._fields.get(number, [b""])[-1]
        return value if isinstance(value, bytes) else b""

    def number(self, number: int) -> int:
        """A field's number; 0 where it is not set."""
        value = self._fields.get(number, [0])[-1]
        return value if isinstance(value, int) else 0


def spans(request: bytes) -> list[Span]:
    """Those of an ExportTraceServiceRequest.

    Raises:
        DecodeError: it is none.
    """
    return list(_spans(_Message(request)))


def _spans(request: _Message) -> Iterator[Span]:
    for batch in request.messages(1):
        about: dict[str, str] = {}
        for resource in batch.messages(1):
            about |= _attributes(resource, 1)
        for scope in batch.messages(2):
            for span in scope.messages(2):
                yield Span(
                    service=about.get("service.name", _ANONYMOUS),
                    trace=span.data(1).hex(),
                    id=span.data(2).hex(),
                    parent=span.data(4).hex(),
                    name=span.data(5).decode(),
                    kind=_KINDS[span.number(6)],
                    start_ns=span.number(7),
                    end_ns=span.number(8),
                    attributes=_attributes(span, 9),
                )


def _attributes(message: _Message, number: int) -> dict[str, str]:
    """Names and values of those that are text, which all of Envoy's are."""
    return {
        pair.data(1).decode(): value.data(1).decode()
        for pair in message.messages(number)
        for value in pair.messages(2)
    }


def listen(collector: Collector, address: str) -> tuple[grpc.Server, int]:
    """Serve OTLP; the port is the one in `address`, or a free one for 0."""

    def export(came: list[Span], _: grpc.ServicerContext) -> bytes:
        collector.add(came)
        return b""  # an ExportTraceServiceResponse: all was taken

    _, service, method = EXPORT.split("/")
    handler: grpc.RpcMethodHandler[list[Span], bytes] = grpc.unary_unary_rpc_method_handler(
        export, request_deserializer=spans
    )
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {method: handler})]
    )
    port = server.add_insecure_port(address)
    server.start()
    return server, port


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 (a pod's only address)
    parser.add_argument("--otlp", type=int, default=4317, help="0: a free one, see the log")
    parser.add_argument("--page", type=int, default=16686, help="as --otlp")
    options = parser.parse_args()
    # before the first thread, which inherits it: only sigwait receives them, also as process 1
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    collector = Collector()
    otlp, port = listen(collector, f"{options.host}:{options.otlp}")
    page = Server(collector.answer, options.host, options.page)
    threading.Thread(target=page.serve_forever, args=(0.2,), daemon=True).start()
    log(otlp=port, page=page.server_address[1])
    signal.sigwait(stop)
    otlp.stop(grace=1).wait()
    page.stop(drain=0, grace=1)


if __name__ == "__main__":
    main()
