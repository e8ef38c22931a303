"""Outgoing requests: to the other services, with the headers that keep a trace together."""

from __future__ import annotations

import http.client
import os
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

_FORWARDED = re.compile(
    r"x-request-id|traceparent|tracestate|b3|x-b3-.+"  # Envoy, W3C, Zipkin
    r"|x-ot-span-context|x-datadog-.+|x-cloud-trace-context|grpc-trace-bin|sw8"  # vendors
    r"|end-user|user-agent|cookie|authorization|jwt"  # whose request it is
)
"""What Bookinfo passes on. A sidecar cannot: only the application knows which call led to which."""

FAILURES = (OSError, http.client.HTTPException, ValueError)
"""What `fetch`, and decoding what it brought, raise when a call fails."""

_BODY_LIMIT = 1 << 20


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


def forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of a request's headers that go into the requests it leads to."""
    return {name: value for name, value in headers.items() if _FORWARDED.fullmatch(name)}


def url(service: str) -> str:
    """Where one of Bookinfo's services is; REVIEWS_HOSTNAME and REVIEWS_SERVICE_PORT overrule."""
    host = os.environ.get(f"{service.upper()}_HOSTNAME") or service
    port = os.environ.get(f"{service.upper()}_SERVICE_PORT") or "9080"
    return f"http://{host}:{port}"


def fetch(
    address: str,
    headers: Mapping[str, str],
    timeout: float,
    tls: ssl.SSLContext | None = None,
    limit: int = _BODY_LIMIT,
) -> Answer:
    """GET over a connection of its own, redirects and proxies not followed.

    Args:
        address: http:// or https:// URL.
        headers: sent as they are.
        timeout: longest silence, in seconds; looking up the name is not limited.
        tls: how a server is verified; None is the system's way.
        limit: bytes of the body that are read.

    Raises:
        OSError, HTTPException: no answer.
        ValueError: not such a URL.
    """
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{address!r} is not an http:// or https:// URL")
    connection = (
        http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=tls)
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    )
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers=dict(headers))
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        body = response.read(limit)
        if response.length and len(body) < limit:  # read() says nothing of a body that was cut off
            raise http.client.IncompleteRead(body, response.length)
        return Answer(response.status, found, body)
    finally:
        connection.close()
