"""`make pr-preview`: one preview, and a comment whatever became of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import __main__ as command
from lab.stack import Stack
from tests.unit.previews import POLICY, peer_authentication, same

MARKER = "<!-- service-mesh preview: service-mesh/dev -->\n"

Preview = Callable[..., tuple[int, str, str]]


@pytest.fixture
def preview(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Preview:
    """Runs the command with a CLI that answers so; gives the exit code and both streams."""

    def run(
        *, out: str = "", err: str = "", code: int = 0, select: int = 0
    ) -> tuple[int, str, str]:
        (tmp_path / "out").write_text(out)
        (tmp_path / "err").write_text(err)
        cli = tmp_path / "pulumi"
        cli.write_text(
            f"#!/bin/sh\ncd {tmp_path}\necho $1 >> calls\n"
            f"[ $1 = stack ] && {{ cat err >&2; exit {select}; }}\n"
            f"cat out; cat err >&2; exit {code}\n"
        )
        cli.chmod(0o755)
        variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        opened = Stack(name="dev", variables=variables, config=None)
        done = command._pr_preview(opened)
        wrote = capfd.readouterr()
        return done, wrote.out, wrote.err

    return run


def test_one_preview_is_run_and_its_warnings_stay_off_the_comment(
    preview: Preview, tmp_path: Path
) -> None:
    step = same(POLICY, peer_authentication("STRICT"))
    code, out, err = preview(out=json.dumps({"steps": [step]}), err="warning: old plugin\n")
    assert (code, err) == (0, "warning: old plugin\n")
    assert out.startswith(f"{MARKER}\n### dev: no changes\n")
    assert (tmp_path / "calls").read_text().split() == ["stack", "preview"]


def test_a_cli_that_gives_up_is_quoted_in_the_comment(preview: Preview) -> None:
    code, out, _ = preview(err="error: no credentials\n", code=255)
    assert code == 2
    assert out.startswith(f"{MARKER}\n### dev: the preview failed")
    assert "```text\nno credentials\n```\n" in out


def test_a_stack_that_cannot_be_made_is_quoted_in_the_comment(preview: Preview) -> None:
    code, out, _ = preview(err="error: no such backend\n", select=1)
    assert code == 2
    assert out.startswith(f"{MARKER}\n### dev: the preview failed")
    assert "no such backend" in out
