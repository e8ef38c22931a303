"""One comment a stack: which is edited, which is left alone, and what is refused.

GitHub is a server on the loopback address that keeps comments as its REST API describes them.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools import pr_comment
from tools.pr_comment import LONGEST, CommentError, Thread, thread

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
BOT = "github-actions[bot]"
TOKEN = "a-workflows-token"  # noqa: S105 of no use anywhere


def marked(stack: str, text: str = "no changes") -> str:
    return f"<!-- service-mesh preview: service-mesh/{stack} -->\n### {stack}: {text}\n"


class GitHub:
    """The comments of pull request 7 of shop/mesh."""

    def __init__(self) -> None:
        github = self
        self.comments: list[dict[str, Any]] = []
        self.broken = False

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                authorised = self.headers["Authorization"] == f"Bearer {TOKEN}"
                status, said = (
                    github.answer(self.command, self.path, body)
                    if authorised
                    else (
                        401,
                        {"message": "Bad credentials"},
                    )
                )
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            do_GET = do_POST = do_PATCH = _answer

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: the signature is the base class's."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def said(self, login: str, body: str) -> dict[str, Any]:
        number = len(self.comments) + 1
        url = f"https://github.com/shop/mesh/pull/7#issuecomment-{number}"
        one = {"id": number, "user": {"login": login}, "body": body, "html_url": url}
        self.comments.append(one)
        return one

    def answer(self, method: str, path: str, body: dict[str, str]) -> tuple[int, Any]:
        if self.broken:
            return 502, {"message": "Server Error"}
        thread_ = "/repos/shop/mesh/issues/7/comments"
        listed = re.fullmatch(rf"{thread_}\?per_page=(\d+)&page=(\d+)", path)
        if method == "GET" and listed:
            size, page = min(int(listed[1]), 100), int(listed[2])
            return 200, self.comments[(page - 1) * size : page * size]
        if method == "POST" and path == thread_:
            return 201, self.said(BOT, body["body"])
        edited = re.fullmatch(r"/repos/shop/mesh/issues/comments/(\d+)", path)
        if method == "PATCH" and edited:
            one = self.comments[int(edited[1]) - 1]
            one["body"] = body["body"]
            return 200, one
        return 404, {"message": "Not Found"}

    @property
    def bodies(self) -> list[str]:
        return [one["body"] for one in self.comments]


@pytest.fixture
def github() -> Iterator[GitHub]:
    github = GitHub()
    serving = threading.Thread(target=github.server.serve_forever, args=(0.01,))
    serving.start()
    yield github
    github.server.shutdown()
    github.server.server_close()
    serving.join()


@pytest.fixture
def seven(github: GitHub) -> Thread:
    return Thread(api=github.url, repository="shop/mesh", number=7, token=TOKEN)


def test_the_first_preview_makes_a_comment_and_the_next_edits_it(
    github: GitHub, seven: Thread
) -> None:
    address = seven.post(marked("prod", "1 to update"))
    assert seven.post(marked("prod", "2 to update")) == address
    assert github.bodies == [marked("prod", "2 to update")]


def test_every_stack_has_a_comment_of_its_own(github: GitHub, seven: Thread) -> None:
    for stack in ("prod", "prod-eu", "prod"):
        seven.post(marked(stack))
    assert github.bodies == [marked("prod"), marked("prod-eu")]


@pytest.mark.parametrize(
    ("login", "body"),
    [
        ("mallory", marked("prod")),
        ("another-app[bot]", marked("prod")),
        (BOT, f"what somebody quoted:\n{marked('prod')}"),
        (BOT, f"> {marked('prod')}"),
        (BOT, ""),
    ],
    ids=["a-person", "another-app", "below", "quoted", "empty"],
)
def test_a_comment_that_is_not_ours_is_left_alone(
    github: GitHub, seven: Thread, login: str, body: str
) -> None:
    github.said(login, body)
    seven.post(marked("prod", "new"))
    assert github.bodies == [body, marked("prod", "new")]


@pytest.mark.parametrize("missing", ["user", "body"])
def test_a_comment_of_which_github_does_not_tell_all_is_left_alone(
    github: GitHub, seven: Thread, missing: str
) -> None:
    github.said(BOT, marked("prod"))[missing] = None
    seven.post(marked("prod"))
    assert len(github.comments) == 2


@pytest.mark.parametrize("before", [99, 100, 230])
def test_ours_is_found_behind_many_others(github: GitHub, seven: Thread, before: int) -> None:
    for _ in range(before):
        github.said("somebody", "a remark")
    github.said(BOT, marked("prod", "old").replace("\n", "\r\n"))
    seven.post(marked("prod", "new"))
    assert len(github.comments) == before + 1
    assert github.bodies[-1] == marked("prod", "new")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "### prod: no changes\n",
        f"installing pinned requirements into .venv\n{marked('prod')}",
        "<!-- service-mesh preview: prod -->\n",
        "<!-- service-mesh preview: service-mesh/prod --> and more\n",
    ],
    ids=["empty", "no-marker", "not-first", "no-project", "more"],
)
def test_a_text_that_does_not_say_whose_it_is_is_refused(
    github: GitHub, seven: Thread, text: str
) -> None:
    with pytest.raises(CommentError, match=r"expected <!-- service-mesh preview: PROJECT/STACK"):
        seven.post(text)
    assert not github.comments


def test_the_longest_comment_is_posted_and_one_character_more_is_refused(
    github: GitHub, seven: Thread
) -> None:
    longest = marked("prod").ljust(LONGEST, "é")
    seven.post(longest)
    with pytest.raises(CommentError, match="65537 characters; GitHub takes 65536"):
        seven.post(longest + "é")
    assert github.bodies == [longest]


def test_what_github_answers_is_the_error_and_the_token_is_not_in_it(
    github: GitHub, seven: Thread
) -> None:
    github.broken = True
    with pytest.raises(CommentError, match=r"GET .*: 502 .*Server Error") as error:
        seven.post(marked("prod"))
    assert TOKEN not in f"{error.value}{seven!r}"


def test_a_github_that_does_not_answer_is_an_error() -> None:
    nobody = Thread(api="http://127.0.0.1:1", repository="shop/mesh", number=7, token=TOKEN)
    with pytest.raises(CommentError, match="refused"):
        nobody.post(marked("prod"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "GITHUB_TOKEN is not set; GITHUB_REPOSITORY is not set; PR is not set"),
        ({"GITHUB_TOKEN": "x", "GITHUB_REPOSITORY": "a/b", "PR": "7/x"}, "PR is '7/x'; expected"),
        ({"GITHUB_TOKEN": "x", "GITHUB_REPOSITORY": "a/b", "PR": "0"}, "PR is '0'; expected"),
    ],
)
def test_all_that_is_missing_is_named_at_once(environment: dict[str, str], message: str) -> None:
    with pytest.raises(CommentError, match=re.escape(message)):
        thread(environment)


def test_make_posts_the_file_with_what_a_runner_has_in_its_environment(
    github: GitHub, tmp_path: Path
) -> None:
    comment = tmp_path / "comment.md"
    comment.write_text(marked("prod"))
    runner = {"GITHUB_API_URL": github.url, "GITHUB_REPOSITORY": "shop/mesh", "PR": "7"}
    done = subprocess.run(
        ["make", "-s", "pr-comment", f"COMMENT={comment}"],
        cwd=ROOT,
        env={**os.environ, **runner, "GITHUB_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "https://github.com/shop/mesh/pull/7#issuecomment-1\n"
    assert github.bodies == [marked("prod")]


def test_a_file_that_is_not_there_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pr_comment.main(tmp_path / "comment.md") == 2
    assert capsys.readouterr().err.startswith("error: ")
