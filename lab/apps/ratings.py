"""Bookinfo's ratings: one to five stars per reviewer, changed by POST or PUT, kept in memory."""

from __future__ import annotations

import json

from lab.apps.httpd import Request, Response, number, problem, reply, run

_FIRST = {"Reviewer1": 5, "Reviewer2": 4}
_MOST = 1000
"""Products whose ratings are kept, so that memory has an end."""

_changed: dict[int, dict[str, int]] = {}


def answer(request: Request) -> Response:
    """`/ratings/{id}`, `/health`."""
    match request.parts:
        case ["health"]:
            return reply({"status": "healthy"})
        case ["ratings", text] if (product := number(text)) is not None:
            pass
        case ["ratings", text]:
            return problem(f"{text!r} is not the number of a product")
        case _:
            return problem("not found", 404)
    if request.method in {"POST", "PUT"}:
        try:
            ratings = json.loads(request.body)
        except ValueError:
            ratings = None
        if not _valid(ratings):
            return problem('the body has to be JSON like {"Reviewer1": 5}, with 1 to 5 stars')
        if product not in _changed and len(_changed) >= _MOST:
            return problem(f"ratings of {_MOST} products are all that is kept", 507)
        _changed[product] = ratings
    return reply({"id": product, "ratings": _changed.get(product, _FIRST)})


def _valid(ratings: object) -> bool:
    return isinstance(ratings, dict) and all(
        type(stars) is int and 1 <= stars <= 5  # noqa: PLR2004 (stars; True is no number of them)
        for stars in ratings.values()
    )


if __name__ == "__main__":
    run(answer)
