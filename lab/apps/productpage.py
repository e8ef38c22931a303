"""Bookinfo's front: a page made of what details and reviews say, and the same as JSON."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from lab.apps import calls
from lab.apps.httpd import HOSTNAME, VERSION, Request, Response, number, problem, reply, run

_TITLE = "The Comedy of Errors"
_ABOUT = "Twins who know nothing of each other, their servants, twins too, and a very long day."
_CSS = Path(__file__).with_name("style.css").read_bytes()
_TIMEOUT = 3.0
_RETRIES = {"reviews": 1}
"""As Istio's task on fault injection has it: reviews gets two times three seconds."""

_OK = 200

_USER = re.compile(r"[A-Za-z0-9._@-]{1,64}")
"""Names that need no quoting, neither in a cookie nor in the header `end-user`."""

_results: Counter[tuple[str, int]] = Counter()
_results_lock = threading.Lock()


class _Called(NamedTuple):
    """What a service answered, and what it says about the call."""

    status: int
    data: Any
    server: str = ""
    """Who answered: pod and version."""
    certificate: str | None = None
    """The caller, as the sidecar of the server told its application."""


def answer(request: Request) -> Response:
    """The pages, `/health`, `/metrics`, `/static/...`, `/login`, `/logout`, `/api/v1/products`."""
    response = problem("not found", 404)
    match request.parts:
        case [""]:
            response = _html("Bookinfo", '<a href="/productpage">The book of the day</a>')
        case ["productpage"]:
            response = _page(request)
        case ["login"] if request.method == "POST":
            response = _login(request)
        case ["logout"]:
            response = _go_on("user=; Path=/; Max-Age=0")
        case ["static", "style.css"]:
            response = Response(_CSS, content_type="text/css")
        case ["health"]:
            response = reply({"status": "healthy"})
        case ["metrics"]:
            response = Response(_metrics().encode(), content_type="text/plain; version=0.0.4")
        case ["api", "v1", "products", *rest]:
            response = _api(rest, request)
    return response


def _api(rest: list[str], request: Request) -> Response:
    match rest:
        case []:
            return reply([{"id": 0, "title": _TITLE, "descriptionHtml": _ABOUT}])
        case [product]:
            service = "details"
        case [product, ("reviews" | "ratings") as service]:
            pass
        case _:
            return problem("not found", 404)
    if number(product) is None:
        return problem(f"{product!r} is not the number of a product")
    called = _call(service, product, request)
    return reply(called.data, called.status)


def _user(request: Request) -> str | None:
    found = re.search(rf"(?:^|; ?)user=({_USER.pattern})(?:;|$)", request.headers.get("cookie", ""))
    return found and found[1]


def _login(request: Request) -> Response:
    """Any name will do: this shows how a request's user travels, not how to keep others out."""
    name = parse_qs(request.body.decode(errors="replace")).get("username", [""])[0]
    if not _USER.fullmatch(name):
        text = f"{name!r} is no name: letters, digits and . _ @ - are allowed, 64 at most"
        return _html("Sign in", _error(text), 400)
    return _go_on(f"user={name}; Path=/; HttpOnly; SameSite=Lax")


def _go_on(cookie: str) -> Response:
    return Response(b"", 302, headers={"Location": "/productpage", "Set-Cookie": cookie})


def _call(service: str, product: str, request: Request) -> _Called:
    """Ask a service about a product; when that fails, its status (or 500) and {"error": ...}."""
    user = _user(request)
    headers = calls.forwarded(request.headers) | ({"end-user": user} if user else {})
    address = f"{calls.url(service)}/{service}/{product}"
    called = _once(service, address, headers)
    for _ in range(_RETRIES.get(service, 0)):
        if called.status == _OK:
            break
        called = _once(service, address, headers)
    return called


def _once(service: str, address: str, headers: dict[str, str]) -> _Called:
    try:
        found = calls.fetch(address, headers, _TIMEOUT)
        ok = found.status == _OK
        called = _Called(
            found.status,
            json.loads(found.body) if ok else {"error": f"{service} answered {found.status}"},
            found.headers.get("x-served-by", ""),
            found.headers.get("x-forwarded-client-cert-seen"),
        )
    except calls.FAILURES:
        called = _Called(500, {"error": f"{service} did not answer"})
    with _results_lock:
        _results[service, called.status] += 1
    return called


def _metrics() -> str:
    with _results_lock:
        rows = sorted(_results.items())
    return "\n".join(
        [
            "# HELP request_result_total Answers of the services that productpage called.",
            "# TYPE request_result_total counter",
            *(
                f'request_result_total{{destination_app="{app}",response_code="{code}"}} {count}'
                for (app, code), count in rows
            ),
            "",
        ]
    )


def _html(title: str, body: str, status: int = 200) -> Response:
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/static/style.css"></head>'
        f"<body><main>{body}</main></body></html>"
    )
    return Response(page.encode(), status, "text/html; charset=utf-8")


def _page(request: Request) -> Response:
    user = _user(request)
    details, reviews = (_call(service, "0", request) for service in ("details", "reviews"))
    sign_in = (
        f'<p>Signed in as <b>{escape(user)}</b> <a href="/logout">sign out</a></p>'
        if user
        else '<form method="post" action="/login"><input name="username" placeholder="any name" '
        'aria-label="name"><button>Sign in</button></form>'
    )
    here = _Called(
        200, None, f"{HOSTNAME} {VERSION}", request.headers.get("x-forwarded-client-cert")
    )
    rows = (("productpage", here), ("details", details), ("reviews", reviews))
    return _html(
        f"Bookinfo: {_TITLE}",
        f"<header><p>Bookinfo</p>{sign_in}</header><h1>{_TITLE}</h1><p>{_ABOUT}</p>"
        f'<div class="columns"><section><h2>Details</h2>{_details(details.data)}</section>'
        f"<section><h2>Reviews</h2>{_reviews(reviews.data)}</section></div>"
        "<footer><h2>Who served this, and who asked</h2>"
        f"<table>{''.join(_served(name, called) for name, called in rows)}</table></footer>",
    )


def _error(text: object) -> str:
    return f'<p class="error">{escape(str(text))}</p>'


def _details(data: object) -> str:
    match data:
        case {"error": text}:
            return _error(text)
        case dict():
            rows = (
                f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>"
                for key, value in data.items()
                if key != "id"
            )
            return f"<dl>{''.join(rows)}</dl>"
    return _error("details answered something else")


def _reviews(data: object) -> str:
    match data:
        case {"error": text}:
            return _error(text)
        case {"reviews": [*reviews]}:
            return "".join(_review(review) for review in reviews)
    return _error("reviews answered something else")


def _review(review: object) -> str:
    match review:
        case {"reviewer": reviewer, "text": text, **more}:
            quote = f"<p>{escape(str(text))}</p><cite>{escape(str(reviewer))}</cite>"
            return f"<blockquote>{quote}{_rating(more.get('rating'))}</blockquote>"
    return _error("a review without reviewer or text")


def _rating(rating: object) -> str:
    match rating:
        case {"error": text}:
            return _error(text)
        case {"stars": int(stars), "color": str(color)}:
            full = max(0, min(5, stars))
            return (
                f'<p class="stars {escape(color)}" title="{full} of 5">'
                f"{'★' * full}{'☆' * (5 - full)}</p>"
            )
    return ""


def _served(service: str, called: _Called) -> str:
    """A row of the table: Envoy's header names the caller whose certificate was verified.

    https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert
    """
    # the last element is the sidecar's own; what stands before was sent to it
    element = re.sub(r'"(\\.|[^"])*"', "", called.certificate or "").rpartition(",")[2]
    caller = re.search(r"(?:^|;)URI=([^;]+)", element)
    seen = (
        f"called by <b>{escape(caller[1])}</b> over mutual TLS"
        if caller
        else "called by somebody who showed no certificate"
        if called.server
        else "no answer"
    )
    return f"<tr><th>{service}</th><td>{escape(called.server)}</td><td>{seen}</td></tr>"


if __name__ == "__main__":
    run(answer)
