"""Tells its client what arrived; what it answers can be asked for: `/?status=503&delay=0.2`."""

from __future__ import annotations

import time

from lab.apps.httpd import HOSTNAME, Request, Response, problem, reply, run


def answer(request: Request) -> Response:
    """Any method, any path.

    `status` is 200 to 599, `delay` 0 to 60 seconds, `size` up to 1048576 more bytes of body.
    """
    try:
        status = int(request.query.get("status", "200"))
        delay = float(request.query.get("delay", "0"))
        size = int(request.query.get("size", "0"))
    except ValueError:
        return problem("status, delay and size are numbers")
    if not (200 <= status <= 599 and 0 <= delay <= 60 and 0 <= size <= 1 << 20):  # noqa: PLR2004
        return problem("status is 200 to 599, delay 0 to 60 seconds, size 0 to 1048576 bytes")
    time.sleep(delay)
    seen = {
        "path": request.target,
        "method": request.method,
        "peer": request.peer,
        "headers": request.headers,
        "body_size": len(request.body),
        "hostname": HOSTNAME,
    }
    return reply(seen | ({"padding": "x" * size} if size else {}), status)


if __name__ == "__main__":
    run(answer, port=8080)
