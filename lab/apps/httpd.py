"""The HTTP/1.1 server under the lab's applications.

Standard library only, and no dataclasses (they cost 15 ms): thirty of these start on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = os.environ.get("SERVICE_VERSION", "v1")
"""Version of this program's service, as in the pod's label."""

HOSTNAME = socket.gethostname()
"""In a pod, the pod's name."""

_BODY_LIMIT = 1 << 20


class Request(NamedTuple):
    """What was asked."""

    method: str
    target: str
    """Path and query as received."""
    headers: dict[str, str]
    """Names in lower case; no value holds a line break."""
    body: bytes
    peer: str
    """Address and port of the other end: in a mesh that is the sidecar."""

    @property
    def parts(self) -> list[str]:
        """The path, cut at its slashes: [""] for `/`."""
        return [unquote(part) for part in self.target.partition("?")[0].strip("/").split("/")]

    @property
    def query(self) -> dict[str, str]:
        """The query; of a repeated name the last value."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))


class Response(NamedTuple):
    """What is answered."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = {}  # noqa: RUF012 (never changed; a NamedTuple has no factories)


def reply(data: object, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(json.dumps(data).encode(), status)


def problem(text: str, status: int = 400) -> Response:
    """Answer with one sentence about what went wrong."""
    return reply({"error": text}, status)


def number(text: str) -> int | None:
    """A natural number of at most nine digits, or None where it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None  # noqa: PLR2004


def log(**fields: object) -> None:
    """Write one line of JSON to the container's log.

    One write each: lines of threads never mix, and no lock is held when the program ends.
    """
    os.write(1, (json.dumps(fields) + "\n").encode())


class _Running:
    """Counts the requests that are being worked on."""

    def __init__(self) -> None:
        self._count = 0
        self._change = threading.Condition()

    def __enter__(self) -> None:
        with self._change:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._count -= 1
            self._change.notify_all()

    def wait(self, seconds: float) -> None:
        """Until there are none, but no longer than this."""
        with self._change:
            self._change.wait_for(lambda: not self._count, seconds)


class Server(ThreadingHTTPServer):
    """Answers requests with one function, each connection in a thread of its own."""

    request_queue_size = 128

    def __init__(self, answer: Callable[[Request], Response], host: str, port: int) -> None:
        super().__init__((host, port), _Connection)
        self.answer = answer
        self.running = _Running()
        self.stopping = False

    def server_bind(self) -> None:
        """Bind only: HTTPServer would ask the DNS for its own name, which can take seconds."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as inherited)
        """Say nothing of a peer that went away: sidecars do it all the time."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def stop(self, *, drain: float, grace: float) -> None:
        """End it without cutting off a running request.

        Args:
            drain: seconds to go on accepting, while every answer asks the client to hang up.
            grace: longest wait for running requests after that, in seconds.
        """
        self.stopping = True
        time.sleep(drain)
        self.shutdown()
        self.server_close()
        self.running.wait(grace)


class _Connection(BaseHTTPRequestHandler):
    # No time limit on an idle connection: were it the server that hangs up, a request that the
    # sidecar is just sending on it would be lost.
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True
    server: Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # how the base class looks for a method: all are answered
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        with self.server.running:
            started = time.monotonic()
            request = self._read()
            if isinstance(request, Request):
                try:
                    response = self.server.answer(request)
                except Exception:  # whatever it was, the client gets an answer
                    traceback.print_exc()
                    response = problem("internal error", 500)
            else:
                response = request
                self.close_connection = True  # the body is still in the line
            log(
                request=self.requestline,
                status=response.status,
                ms=round((time.monotonic() - started) * 1000, 1),
                peer="{}:{}".format(*self.client_address),
                request_id=self.headers.get("x-request-id"),
            )
            self._send(response)

    def _read(self) -> Request | Response:
        """The request, or why it is refused."""
        length = number(self.headers.get("Content-Length", "0"))
        if "Transfer-Encoding" in self.headers or length is None:
            return problem("the body needs a Content-Length", 411)
        if length > _BODY_LIMIT:
            return problem(f"the body is larger than {_BODY_LIMIT} bytes", 413)
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            clean = " ".join(value.split())  # a folded header has line breaks
            key = name.lower()
            headers[key] = f"{headers[key]}, {clean}" if key in headers else clean
        body = self.rfile.read(length)
        peer = "{}:{}".format(*self.client_address)
        return Request(self.command, self.path, headers, body, peer)

    def _send(self, response: Response) -> None:
        bodiless = response.status in {204, 304}
        headers = {"Content-Type": response.content_type, "x-served-by": f"{HOSTNAME} {VERSION}"}
        if not bodiless:
            headers["Content-Length"] = str(len(response.body))
        certificate = self.headers.get("X-Forwarded-Client-Cert")
        if certificate is not None:
            headers["x-forwarded-client-cert-seen"] = " ".join(certificate.split())
        if self.close_connection or self.server.stopping:
            headers["Connection"] = "close"
        self.send_response(response.status)
        for name, value in (headers | response.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and not bodiless:
            self.wfile.write(response.body)
        self.wfile.flush()

    def version_string(self) -> str:
        """Give the header `Server`."""
        return "lab"

    def log_request(self, *_: object) -> None:
        """Nothing: `_answer` writes the access log."""

    def log_message(self, format: str, *args: object) -> None:
        """Log a request that could not be parsed."""
        log(error=format % args)


def run(answer: Callable[[Request], Response], port: int = 9080) -> None:
    """Serve until SIGTERM, then finish what is running."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 (a pod's only address)
    parser.add_argument("--port", type=int, default=port, help="0: a free one, see the log")
    parser.add_argument("--drain", type=float, default=0, help="seconds to accept after SIGTERM")
    parser.add_argument("--grace", type=float, default=20, help="seconds for running requests")
    options = parser.parse_args()
    # before the first thread, which inherits it: only sigwait receives them, also as process 1
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    server = Server(answer, options.host, options.port)
    # 0.2 s is how late it notices the stop; shorter would wake thirty idle pods too often
    threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
    log(listening=server.server_address[1], version=VERSION)
    signal.sigwait(stop)
    server.stop(drain=options.drain, grace=options.grace)
