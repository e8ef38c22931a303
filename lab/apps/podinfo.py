"""Stands for `ghcr.io/stefanprodan/podinfo`: what the example of two services asks of it."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from lab.apps.calls import forwarded
from lab.apps.httpd import HOSTNAME, Request, Response, problem, reply, run

_TIMEOUT_S = 10


def answer(request: Request) -> Response:
    """`/`, `/healthz`, `/readyz`, `/headers`, and POST `/echo`, which goes on to the backend."""
    match request.method, request.target.partition("?")[0]:
        case "GET", "/":
            return reply({"hostname": HOSTNAME, "message": "greetings from the lab's podinfo"})
        case "GET", "/healthz" | "/readyz":
            return reply({"status": "OK"})
        case "GET", "/headers":
            return reply({name.title(): [value] for name, value in request.headers.items()})
        case "POST", "/echo" | "/api/echo":
            return _echo(request)
    return problem("not found", 404)


def _echo(request: Request) -> Response:
    backend = os.environ.get("PODINFO_BACKEND_URL")
    if not backend:
        return Response(request.body, 202)
    onward = urllib.request.Request(  # noqa: S310 (the pod's own setting)
        backend, data=request.body, headers=forwarded(request.headers), method="POST"
    )
    try:
        with urllib.request.urlopen(onward, timeout=_TIMEOUT_S) as found:  # noqa: S310
            return reply([found.read().decode(errors="replace")])
    except urllib.error.HTTPError as error:
        return reply([f"backend {backend} response status code {error.code}"])
    except OSError as error:
        return reply([f"backend {backend} call failed {error}"])


if __name__ == "__main__":
    run(answer, port=9898)
