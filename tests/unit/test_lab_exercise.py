"""When the exercise counts as done; the exercise itself runs in tests/e2e."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import exercise
from lab.lifecycle import LabError, Running
from lab.paths import LabPaths
from lab.playground import Answer, Playground
from lab.sandbox import Isolation
from lab.stack import Stack

_FRONTEND = "spiffe://cluster.local/ns/shop/sa/frontend"


class Lab:
    """Stands for the lab, and remembers whether it was stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.isolation = Isolation.ROOT
        self.caller = _FRONTEND
        self.plain: str | None = "reset"
        self.tlscheck = {"frontend-v1.shop": 0, "client.outside": 1}
        self.pulumi = 0
        self.up: Path | None = None
        self.down: list[Path] = []
        monkeypatch.setattr(exercise, "up", lambda paths: setattr(self, "up", paths.state))
        monkeypatch.setattr(exercise, "down", lambda paths: self.down.append(paths.state))
        monkeypatch.setattr(
            exercise, "running", lambda _: Running(port=1, ingress=2, isolation=self.isolation)
        )
        monkeypatch.setattr(exercise, "open_example", lambda *_: _FakeStack(self))
        monkeypatch.setattr(exercise, "_SETTLED_WITHIN_S", 0)
        monkeypatch.setattr(exercise, "_ask", self._ask)
        monkeypatch.setattr(exercise, "_tlscheck", self._tlscheck)
        for name in ("apply", "ready"):
            monkeypatch.setattr(Playground, name, lambda *_: None)

    def _ask(self, _: object, where: str, *__: str) -> Answer:
        if where == "shop":
            seen = {"x-forwarded-client-cert-seen": f"By=x;URI={self.caller}"}
            return Answer(status=200, error=None, headers=seen, body="")
        status = 200 if self.plain is None else None
        return Answer(status=status, error=self.plain, headers={}, body="")

    def _tlscheck(self, _: object, client: str, server: str) -> int:
        assert server.startswith("backend")
        return next(code for name, code in self.tlscheck.items() if client.startswith(name))


class _FakeStack(Stack):
    def __init__(self, lab: Lab) -> None:
        super().__init__(name="lab", variables={}, config=None)
        object.__setattr__(self, "_lab", lab)

    def pulumi(self, *words: str) -> list[str]:
        return ["pulumi", *words]

    def call(self, *_: str, quiet: bool = False) -> int:
        assert not quiet
        code: int = getattr(self, "_lab").pulumi  # noqa: B009 a slot of Stack has no such name
        return code


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


def _run(tmp_path: Path) -> int:
    return exercise.exercise(LabPaths(state=tmp_path))


def test_a_mutual_call_and_a_refused_one_are_success(lab: Lab, tmp_path: Path) -> None:
    assert _run(tmp_path) == 0
    assert lab.up == tmp_path / "exercise", "the checkout's own lab is left alone"
    assert lab.down == [lab.up]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("caller", ""),
        ("caller", "spiffe://cluster.local/ns/shop/sa/backend"),
        ("plain", None),
        ("plain", "timeout"),
        ("tlscheck", {"frontend-v1.shop": 1, "client.outside": 1}),
        ("tlscheck", {"frontend-v1.shop": 0, "client.outside": 0}),
        ("tlscheck", {"frontend-v1.shop": 0, "client.outside": 2}),
        ("pulumi", 255),
    ],
)
def test_anything_else_is_failure_and_the_lab_goes_all_the_same(
    lab: Lab, tmp_path: Path, what: str, value: Any
) -> None:
    setattr(lab, what, value)
    assert _run(tmp_path) != 0
    assert lab.down == [tmp_path / "exercise"]


def test_without_namespaces_there_is_one_sentence(lab: Lab, tmp_path: Path) -> None:
    lab.isolation = Isolation.NONE
    with pytest.raises(LabError, match="forbids the namespaces"):
        _run(tmp_path)
    assert lab.down == [tmp_path / "exercise"]


def test_the_example_is_under_forty_lines() -> None:
    assert len((exercise.PROGRAM / "__main__.py").read_text().splitlines()) < 40
