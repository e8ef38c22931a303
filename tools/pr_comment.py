"""One comment for each stack under a pull request, made once and edited after that.

`python -m tools.pr_comment FILE` posts what `make pr-preview` has printed; its first line says for
which stack. It needs GITHUB_TOKEN, GITHUB_REPOSITORY and GITHUB_API_URL in the environment, as
GitHub's runners have them, and PR, the pull request's number.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

LONGEST = 65_536
"""Characters that GitHub takes for one comment."""

_AUTHOR = "github-actions[bot]"
"""Who the token of a workflow is. Comments of others are theirs, whatever they begin with."""

_MARKER = re.compile(r"<!-- service-mesh preview: [^\s<>]+/[^\s<>]+ -->")
_PAGE = 100
_TIMEOUT_S = 30.0
_NEEDED = ("GITHUB_TOKEN", "GITHUB_REPOSITORY", "PR")


class CommentError(Exception):
    """The comment cannot be posted. The message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thread:
    """The comments under one pull request."""

    api: str
    """Address of GitHub's REST API, without a "/" at the end."""

    repository: str
    """OWNER/NAME."""

    number: int
    """Number of the pull request."""

    token: str = field(repr=False)
    """May read and write the comments of pull requests."""

    def post(self, text: str) -> str:
        """Edit the comment with the text's first line, or make it.

        Returns:
            Its address.

        Raises:
            CommentError: The first line is no marker, the text is too long, or GitHub refused.
        """
        marker = _first_line(text)
        if not _MARKER.fullmatch(marker):
            raise CommentError(
                f"the first line is {marker[:80]!r}; expected <!-- service-mesh preview: "
                "PROJECT/STACK -->, as `make -s pr-preview` prints it"
            )
        if len(text) > LONGEST:
            raise CommentError(f"{len(text)} characters; GitHub takes {LONGEST}")
        found = self._find(marker)
        where = f"issues/{self.number}/comments" if found is None else f"issues/comments/{found}"
        answer = self._ask("POST" if found is None else "PATCH", where, {"body": text})
        return str(answer["html_url"])

    def _find(self, marker: str) -> int | None:
        """Our comment with this first line; the oldest if there are several."""
        for page in count(1):
            some = self._ask(
                "GET", f"issues/{self.number}/comments?per_page={_PAGE}&page={page}", None
            )
            for one in some:
                ours = (one.get("user") or {}).get("login") == _AUTHOR
                if ours and _first_line(one.get("body") or "") == marker:
                    return int(one["id"])
            if len(some) < _PAGE:
                break
        return None

    def _ask(self, method: str, where: str, body: Mapping[str, str] | None) -> Any:  # noqa: ANN401 any JSON
        url = f"{self.api}/repos/{self.repository}/{where}"
        request = urllib.request.Request(  # noqa: S310 (the runner's own address of GitHub)
            url,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 (same)
                return json.load(answer)
        except urllib.error.HTTPError as refusal:
            said = refusal.read().decode(errors="replace")
            raise CommentError(f"{method} {url}: {refusal.code} {said}") from refusal
        except OSError as failure:
            raise CommentError(f"{method} {url}: {failure}") from failure


def _first_line(text: str) -> str:
    return text.partition("\n")[0].rstrip("\r")


def thread(environment: Mapping[str, str]) -> Thread:
    """The pull request that the environment names.

    Raises:
        CommentError: Something is missing, or PR is no number.
    """
    wrong = [f"{name} is not set" for name in _NEEDED if not environment.get(name)]
    number = environment.get("PR", "")
    if number and not re.fullmatch(r"[1-9][0-9]*", number):
        wrong.append(f"PR is {number!r}; expected the pull request's number")
    if wrong:
        raise CommentError("; ".join(wrong))
    return Thread(
        api=environment.get("GITHUB_API_URL") or "https://api.github.com",
        repository=environment["GITHUB_REPOSITORY"],
        number=int(number),
        token=environment["GITHUB_TOKEN"],
    )


def main(file: Path) -> int:
    """Post a file; 0 if it was, 2 if it could not be."""
    try:
        text = file.read_text(encoding="utf-8")
        print(thread(os.environ).post(text))
    except (CommentError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
