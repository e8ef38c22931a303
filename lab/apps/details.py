"""Bookinfo's details: what is printed on a book's first pages."""

from __future__ import annotations

from lab.apps.httpd import Request, Response, number, problem, reply, run


def answer(request: Request) -> Response:
    """`/details/{id}`, `/health`."""
    match request.parts:
        case ["health"]:
            return reply({"status": "healthy"})
        case ["details", text] if (product := number(text)) is not None:
            return reply(
                {
                    "id": product,
                    "author": "William Shakespeare",
                    "year": 1623,
                    "type": "folio",
                    "pages": 16,
                    "publisher": "Blount and Jaggard",
                    "language": "English",
                    # valid check digits, and no book has them
                    "ISBN-10": "0000000000",
                    "ISBN-13": "9780000000002",
                }
            )
        case ["details", text]:
            return problem(f"{text!r} is not the number of a product")
    return problem("not found", 404)


if __name__ == "__main__":
    run(answer)
