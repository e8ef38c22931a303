"""The real CLI, provider, API server and istiod, on a lab of the tests' own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from lab.lifecycle import down
from lab.paths import ROOT, LabPaths
from lab.stack import open_stack

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a program said."""

    code: int
    out: str
    """Both streams."""

    def changes(self) -> dict[str, int]:
        """Operations and their numbers, from the CLI's summary: `{"unchanged": 33}`."""
        summary = self.out.partition("Resources:")[2]
        return {what: int(count) for count, what in re.findall(r"(\d+) (?:to )?(\w+)\n", summary)}


class Mesh:
    """A stack on the lab, driven as a person does."""

    def __init__(self, paths: LabPaths, name: str = "dev") -> None:
        self.paths = paths
        self.stack = open_stack(name, paths)

    def reset_settings(self) -> None:
        """The stack's own settings again, whatever a test has changed."""
        config = self.paths.state / f"Pulumi.{self.stack.name}.yaml"
        if config.exists():  # else a test has taken the lab down
            # what is as the lab wrote it is nobody's choice, and need not last
            shutil.copy(config, self.paths.state / f"Pulumi.{self.stack.name}.written.yaml")
        self.stack = open_stack(self.stack.name, self.paths)

    def run(self, *words: str, ok: bool = True, **variables: str) -> Result:
        """Run a program on the lab; fail the test if it fails and `ok` is set."""
        done = subprocess.run(
            words,
            cwd=ROOT,
            env={**os.environ, **self.stack.variables, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not ok or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}"
        return Result(code=done.returncode, out=done.stdout)

    def pulumi(self, *words: str, ok: bool = True) -> Result:
        """Run the CLI for the stack."""
        return self.run(*self.stack.pulumi(*words, "--non-interactive"), ok=ok)

    def up(self, *words: str) -> Result:
        """An update without the preview before it."""
        return self.pulumi("up", "--yes", "--skip-preview", *words)

    def make(self, target: str, *, ok: bool = True, **variables: str) -> Result:
        """Run a target of the Makefile for the stack."""
        where = {"STACK": self.stack.name, "LAB_STATE": str(self.paths.state)}
        return self.run("make", "-s", target, ok=ok, **where, **variables)

    def kubectl(self, *words: str, ok: bool = True, stdin: str | None = None) -> Result:
        """Run kubectl on the lab."""
        if stdin is None:
            return self.run("kubectl", *words, ok=ok)
        done = subprocess.run(
            ["kubectl", *words],
            env={**os.environ, **self.stack.variables},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        return Result(code=done.returncode, out=done.stdout + done.stderr)

    def get(self, *words: str) -> list[dict[str, Any]]:
        """Objects of the cluster."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", *words, "-o", "json").out)[
            "items"
        ]
        return items

    def set(self, key: str, value: str) -> None:
        """Change a setting in the lab's copy of the stack's settings."""
        self.pulumi("config", "set", key, value)


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """An empty lab with the stack's settings; it is stopped in the end, whatever happened."""
    paths = LabPaths(state=ROOT / ".lab" / "e2e")
    down(paths)
    try:
        yield Mesh(paths)
    finally:
        down(paths)
        shutil.rmtree(paths.state)
