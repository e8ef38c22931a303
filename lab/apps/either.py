"""Serves HTTP and HTTPS on the same ports, and says which of the two it was asked in.

CERTIFICATE is the PEM of a certificate and its key. What a sidecar passes through undecrypted is
answered over TLS by the application itself; a client's certificate is asked for, not required.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import ssl
import tempfile
import threading
from typing import Any

from lab.apps.httpd import HOSTNAME, Request, Response, Server, log, reply

_HANDSHAKE = b"\x16"
"""First byte of a TLS connection."""

_connection = threading.local()


def answer(_: Request) -> Response:
    """Any method, any path: this pod, and whether TLS ended here."""
    return reply({"hostname": HOSTNAME, "tls": _connection.tls})


class Either(Server):
    """Looks at a connection's first byte before anybody answers."""

    def __init__(self, tls: ssl.SSLContext, host: str, port: int) -> None:
        super().__init__(answer, host, port)
        self._tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as inherited)
        """Serve one connection, in its thread."""
        _connection.tls = request.recv(1, socket.MSG_PEEK) == _HANDSHAKE
        if not _connection.tls:
            super().finish_request(request, client_address)
            return
        try:
            secured = self._tls.wrap_socket(request, server_side=True)
        except ssl.SSLError as error:
            log(error=str(error))
            return
        with secured:
            super().finish_request(secured, client_address)


def context(pem: str) -> ssl.SSLContext:
    """The server's side of TLS, from a certificate and its key."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(pem)
        file.flush()
        tls.load_cert_chain(file.name)
    return tls


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="+")
    # before the first thread, which inherits it: only sigwait receives them, also as process 1
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    tls = context(os.environ["CERTIFICATE"])
    for port in parser.parse_args().port:
        server = Either(tls, "0.0.0.0", port)  # noqa: S104 (a pod's only address)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    log(listening=True)
    signal.sigwait(stop)
