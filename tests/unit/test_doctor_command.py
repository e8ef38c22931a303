"""How `make doctor` leads doctor to a stack's cluster, and what it hands over."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import __main__ as command
from lab import stack
from lab.lifecycle import LabError
from lab.paths import LabPaths
from lab.stack import Stack

_PATHS = LabPaths()


class Called(Stack):
    """A stack of a cluster of its own; remembers what was run."""

    exists = True
    seen: list[tuple[str, ...]]
    exported = ""

    def call(self, *words: str, quiet: bool = False) -> int:
        assert quiet == (words[0] == "pulumi")
        if words[0] == "pulumi":
            return 0 if self.exists else 255
        if "--state" in words:
            Called.exported = Path(words[words.index("--state") + 1]).read_text()
        self.seen.append(words)
        return 1

    def read(self, *words: str, stdin: str | None = None) -> str:
        assert stdin is None
        assert words == ("pulumi", "stack", "export", "--stack", "prod")
        return "the state"


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Called]:
    (tmp_path / "Pulumi.yaml").write_text(
        "name: service-mesh\nconfig: {istioVersion: {default: 1.31.1}, replicas: {default: 1}}"
    )
    (tmp_path / "Pulumi.prod.yaml").write_text(
        "config: {service-mesh:kubeContext: mine, service-mesh:namespace: shop}"
    )
    Called.seen, Called.exists, Called.exported = [], True, ""
    opened = Called(name="prod", variables={}, config=None, program=tmp_path)
    monkeypatch.setattr(stack, "needs_lab", lambda _: False)
    monkeypatch.setattr(stack, "open_stack", lambda *_: opened)
    return Called


def test_doctor_gets_the_cluster_the_settings_and_the_state(called: type[Called]) -> None:
    assert command._doctor("prod", _PATHS) == 1
    (words,) = called.seen
    assert words[:3] == (sys.executable, "-m", "doctor")
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert called.exported == "the state"
    assert not Path(given.pop("--state")).exists()
    assert given == {
        "--context": "mine",
        "--stack": "service-mesh/prod",
        "--istio-version": "1.31.1",
        "--namespace": "shop",
    }


def test_a_stack_that_is_not_there_is_not_made(called: type[Called]) -> None:
    called.exists = False
    assert command._doctor("prod", _PATHS) == 1
    assert "--state" not in called.seen[0]


def test_no_lab_is_started_to_be_examined(
    called: type[Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "needs_lab", lambda _: True)
    monkeypatch.setattr(command, "running", lambda _: None)
    with pytest.raises(LabError, match="`make up` starts one"):
        command._doctor("dev", _PATHS)
    assert called.seen == []
