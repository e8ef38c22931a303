"""docs/day-21.md: every command in it is run, and says what the page says that it says."""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from lab.lifecycle import down
from lab.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e

PAGE = ROOT / "docs" / "day-21.md"
LONGEST_S = 1200
SETTLED_WITHIN_S = 20

_POD = re.compile(r"(?<=-)[a-z0-9]{8,10}-[a-z0-9]{5}\b")
_NAME = re.compile(r"\boutside-[0-9a-f]{6}\b")
_TIME = re.compile(r"\b(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+\b")
# no status, no 0, which is unlike every other number, and no "1/2" of a pod
_NUMBER = re.compile(r"(?<![\w./])(?!(?:0|200|403)\b)\d+(?:\.\d+)?\b(?!/)")


class Step(NamedTuple):
    """A command of the page and the lines that it is said to print."""

    command: str
    lines: tuple[str, ...]


def steps(page: str) -> list[Step]:
    """What the page's console blocks say; a line `...` stands for lines that are left out."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", "").partition("\n")
            lines = [line for line in output.splitlines() if line.strip() not in {"", "..."}]
            found.append(Step(command=command, lines=tuple(lines)))
    return found


def same(line: str) -> str:
    """A line without what differs from run to run: ids, times, numbers, widths of columns."""
    line = _NAME.sub("outside-ID", _POD.sub("ID", line))
    return " ".join(_NUMBER.sub("N", _TIME.sub("T", line)).split())


STEPS = steps(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shell(mesh: Mesh) -> Iterator[dict[str, str]]:
    """The environment of a person who follows the page on a machine without a lab."""
    down(mesh.paths)
    yield {
        **os.environ,
        **mesh.stack.variables,
        "LAB_STATE": str(mesh.paths.state),
        "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{mesh.stack.variables['PATH']}",
    }
    # the page ends with `make down`: the other tests find an empty lab again
    down(mesh.paths)
    mesh.reset_settings()


@pytest.mark.parametrize(
    "step", STEPS, ids=[f"{n}-{one.command[:40]}" for n, one in enumerate(STEPS)]
)
def test_a_command_of_the_page_prints_what_the_page_says(shell: dict[str, str], step: Step) -> None:
    # what has just been written takes the proxies a moment: a question may be asked again
    asks = step.command.startswith("kubectl ")
    deadline = time.monotonic() + (SETTLED_WITHIN_S if asks else 0)
    while True:
        printed = run(step.command, shell)
        missing = first_missing(step.lines, printed)
        if missing is None or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert missing is None, f"{missing!r} is not in what came, or not there:\n{printed}"


def run(command: str, shell: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=shell,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    return done.stdout


def first_missing(lines: tuple[str, ...], printed: str) -> str | None:
    """The first line that does not come, after those before it; None when all do."""
    left = iter([same(line) for line in printed.splitlines()])
    return next((line for line in lines if same(line) not in left), None)


@pytest.mark.parametrize(
    ("printed", "missing"),
    [
        ("pods:\nreviews-v1-6fd6ddd6fb-6qmcp  2/2  Running  9s\n200", None),
        ("pods:\nreviews-v1-aaaaaaaaaa-bbbbb 2/2 Running 3m2s\n\nmore\n200", None),
        ("pods:\nreviews-v1-6fd6ddd6fb-6qmcp 2/2 Running 9s\n403", "b"),
        ("pods:\nreviews-v1-6fd6ddd6fb-6qmcp 1/2 Running 9s\n200", "a"),
        ("pods:\nreviews-v2-6fd6ddd6fb-6qmcp 2/2 Running 9s\n200", "a"),
        ("reviews-v1-6fd6ddd6fb-6qmcp 2/2 Running 9s\npods:\n200", "a"),
        ("pods:\nreviews-v1-6fd6ddd6fb-6qmcp 2/2 Pending 9s\n200", "a"),
        ("pods:\nreviews-v1-6fd6ddd6fb-6qmcp 2/2 Running 9s\nrefused", "b"),
    ],
)
def test_ids_times_and_numbers_may_differ_and_nothing_else(
    printed: str, missing: str | None
) -> None:
    a, b = "reviews-v1-5754546748-pt2sz   2/2     Running   109s", "200"
    assert first_missing(("pods:", a, b), printed) == {"a": a, "b": b, None: None}[missing]


def test_a_moment_and_a_count_are_numbers_and_none_is_not_some() -> None:
    line = '{"value":[1795442267.647,"11"]}'
    assert same(line) == same('{"value":[1795442898.316,"12"]}')
    assert same(line) != same('{"value":[1795442898.316,"0"]}')


def test_the_page_has_a_command_for_every_step_of_the_lesson() -> None:
    chapters = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(chapters) >= 10
    for chapter in chapters:
        assert "```console\n$ " in chapter, chapter.splitlines()[0]
