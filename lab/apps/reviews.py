"""Bookinfo's reviews: v1 without stars, v2 with black ones, v3 with red ones."""

from __future__ import annotations

import json
import os
from typing import Any

from lab.apps import calls
from lab.apps.httpd import HOSTNAME, VERSION, Request, Response, number, problem, reply, run

_STARS: dict[str, tuple[str, float]] = {"v2": ("black", 10.0), "v3": ("red", 2.5)}
"""Version -> colour, and how long it waits for ratings, in seconds.

v2 waits longer than productpage waits for it: the mistake that Istio's task on fault injection
lets one find, https://istio.io/latest/docs/tasks/traffic-management/fault-injection/.
"""

_TEXTS = {
    "Reviewer1": "Two pairs of twins, one town and not a dull minute. I laughed on every page.",
    "Reviewer2": "Merry and quick, though its author had deeper plays still before him.",
}


def answer(request: Request) -> Response:
    """`/reviews/{id}`, `/health`."""
    match request.parts:
        case ["health"]:
            return reply({"status": "healthy"})
        case ["reviews", product] if number(product) is not None:
            return reply(
                {
                    "id": product,
                    "podname": HOSTNAME,
                    "clustername": os.environ.get("CLUSTER_NAME"),
                    "reviews": _reviews(product, request),
                }
            )
        case ["reviews", product]:
            return problem(f"{product!r} is not the number of a product")
    return problem("not found", 404)


def _reviews(product: str, request: Request) -> list[dict[str, Any]]:
    reviews: list[dict[str, Any]] = [
        {"reviewer": reviewer, "text": text} for reviewer, text in _TEXTS.items()
    ]
    if VERSION in _STARS:
        color, timeout = _STARS[VERSION]
        stars = _ratings(product, calls.forwarded(request.headers), timeout)
        for review in reviews:
            if stars is None:
                review["rating"] = {"error": "Ratings service is currently unavailable"}
            elif review["reviewer"] in stars:
                review["rating"] = {"stars": stars[review["reviewer"]], "color": color}
    return reviews


def _ratings(product: str, headers: dict[str, str], timeout: float) -> dict[str, Any] | None:
    try:
        found = calls.fetch(f"{calls.url('ratings')}/ratings/{product}", headers, timeout)
        match found.status, json.loads(found.body):
            case 200, {"ratings": dict(stars)}:
                return stars
    except calls.FAILURES:
        pass
    return None


if __name__ == "__main__":
    run(answer)
