"""One GET, or a bounded number of them, told as one JSON object: what tests run inside pods."""

from __future__ import annotations

import argparse
import http.client
import json
import math
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from typing import Any, NamedTuple

from lab.apps import calls

MOST_REQUESTS = 2000
MOST_SECONDS = 120.0
_WORKERS = 64
_BODY = 64 << 10


class Ask(NamedTuple):
    """What to send, each time."""

    url: str
    headers: dict[str, str] = {}  # noqa: RUF012 (never changed; a NamedTuple has no factories)
    timeout: float = 5.0
    insecure: bool = False
    decode: bool = False
    """Give the body as the JSON it holds."""


def once(ask: Ask) -> dict[str, Any]:
    """The answer, or why there is none: refused, reset, timeout, "tls: ...", "dns: ..."."""
    started = time.monotonic()
    answer, error = None, None
    try:
        answer = calls.fetch(ask.url, ask.headers, ask.timeout, _tls(ask), limit=_BODY)
    except calls.FAILURES as failure:
        error = _name(failure)
    body: Any = answer and answer.body.decode(errors="replace")
    if ask.decode and body:
        try:
            body = json.loads(body)
        except ValueError as failure:
            error = f"json: {failure}"
    return {
        "status": answer and answer.status,
        "headers": answer and answer.headers,
        "body": body,
        "seconds": round(time.monotonic() - started, 4),
        "error": error,
    }


def _tls(ask: Ask) -> ssl.SSLContext | None:
    if not (ask.insecure and ask.url.startswith("https:")):
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _name(failure: BaseException) -> str:
    match failure:
        case ssl.SSLError():
            return f"tls: {failure.reason or failure}"
        case socket.gaierror():
            return f"dns: {failure.strerror}"
        case ConnectionRefusedError():
            return "refused"
        # an end without an answer, too: FIN or RST is a matter of what the peer had read by then
        case ConnectionError() | http.client.IncompleteRead():
            return "reset"
        case TimeoutError():
            return "timeout"
    return f"{type(failure).__name__}: {failure}"


def load(ask: Ask, count: int, rate: float) -> dict[str, Any]:
    """Send requests at a steady rate, whether or not earlier ones were answered.

    No more than 64 wait at once, and none is sent after 120 s: `sent` says how many were.

    Raises:
        ValueError: more than 2000 requests, or more than 120 s of them.
    """
    if not (1 <= count <= MOST_REQUESTS and 0 < rate < math.inf and count / rate <= MOST_SECONDS):
        raise ValueError(
            f"at most {MOST_REQUESTS} requests and {MOST_SECONDS:g} s, "
            f"and {count} at {rate:g} a second are not"
        )
    start = time.monotonic()
    turns = iter(range(count))
    turn_lock = threading.Lock()
    results: list[dict[str, Any]] = []

    def work() -> None:
        while True:
            with turn_lock:
                turn = next(turns, None)
            if turn is None:
                return
            time.sleep(max(0.0, start + turn / rate - time.monotonic()))
            if time.monotonic() - start > MOST_SECONDS:
                return
            results.append(once(ask))

    workers = [threading.Thread(target=work) for _ in range(min(count, _WORKERS))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    times = sorted(result["seconds"] * 1000 for result in results if result["status"])
    return {
        "sent": len(results),
        "ok": sum(1 for result in results if result["status"] and result["status"] < 400),  # noqa: PLR2004
        "by_status": Counter(str(result["status"]) for result in results if result["status"]),
        "errors": Counter(result["error"] for result in results if result["error"]),
        "p50_ms": _percentile(times, 0.50),
        "p99_ms": _percentile(times, 0.99),
    }


def _percentile(times: list[float], share: float) -> float | None:
    """By nearest rank; of the requests that were answered."""
    return round(times[math.ceil(share * len(times)) - 1], 1) if times else None


def main(arguments: list[str]) -> int:
    """Print the result; 0 when every request was answered, whatever the status."""
    parser = argparse.ArgumentParser(prog="python -m lab.apps.get", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds")
    parser.add_argument("--insecure", action="store_true", help="do not verify the server")
    parser.add_argument("--json", action="store_true", help="give the body as JSON, not as text")
    parser.add_argument("--count", type=int, help="send that many and print a summary")
    parser.add_argument("--rate", type=float, default=20.0, help="a second, with --count")
    options = parser.parse_args(arguments)
    pairs = [header.partition(":") for header in options.header]
    if not all(colon for _, colon, _ in pairs):
        parser.error("a --header is NAME:VALUE")
    if not 0 < options.timeout <= MOST_SECONDS:
        parser.error(f"--timeout is at most {MOST_SECONDS:g} seconds")
    headers = {name.strip(): value.strip() for name, _, value in pairs}
    ask = Ask(options.url, headers, options.timeout, options.insecure, options.json)
    if options.count is None:
        result = once(ask)
        failed = result["error"] is not None
    else:
        try:
            result = load(ask, options.count, options.rate)
        except ValueError as refusal:
            parser.error(str(refusal))
        failed = bool(result["errors"])
    print(json.dumps(result))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
