"""The lab's files tell the truth, whatever ended the lab."""

from __future__ import annotations

import fcntl
import json
import socket
import sys
from pathlib import Path

import pytest

from lab import lifecycle
from lab.lifecycle import PORT, LabError, down, running, up
from lab.paths import LabPaths
from lab.sandbox import Isolation


@pytest.fixture
def paths(tmp_path: Path) -> LabPaths:
    return LabPaths(state=tmp_path / "lab")


def _leftovers(paths: LabPaths) -> None:
    paths.logs.mkdir(parents=True)
    paths.kwok.mkdir()
    paths.facts.write_text(json.dumps({"port": 1, "ingress": 2, "isolation": "root"}))
    paths.kubeconfig.write_text("stale")
    paths.lock.touch()


def test_a_killed_lab_is_no_lab_whatever_files_it_left(paths: LabPaths) -> None:
    _leftovers(paths)
    assert running(paths) is None


def test_a_living_lab_is_found_by_its_lock(paths: LabPaths) -> None:
    _leftovers(paths)
    with paths.lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = running(paths)
    assert found is not None
    assert found.isolation is Isolation.ROOT


def test_down_removes_what_a_killed_lab_left_and_keeps_the_charts(paths: LabPaths) -> None:
    _leftovers(paths)
    paths.charts.mkdir()
    paths.pulumi.mkdir()
    assert down(paths) is False
    assert [p.name for p in paths.state.iterdir()] == ["charts"]


def test_down_without_a_lab_does_nothing(paths: LabPaths) -> None:
    assert down(paths) is False
    assert not paths.state.exists()


def test_up_says_why_when_the_sandbox_ends_at_once(
    paths: LabPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "ensure", lambda _: None)
    monkeypatch.setattr(lifecycle, "detect", lambda: Isolation.NONE)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LabError, match="did not start") as error:
        up(paths)
    assert str(paths.log) in str(error.value)


def test_up_refuses_while_another_up_is_at_work(paths: LabPaths) -> None:
    _leftovers(paths)
    paths.facts.unlink()
    with paths.lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LabError, match="starting or stopping"):
            up(paths)


def test_a_busy_port_is_said_and_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            busy.bind(("127.0.0.1", PORT))
            busy.listen()
        except OSError:
            pass  # a lab of this checkout has it: as busy as the test needs it
        with lifecycle._listen(PORT) as listener:
            assert listener.getsockname()[1] != PORT
    assert f"port {PORT} is taken" in capsys.readouterr().err


def test_only_loopback_is_listened_on() -> None:
    with lifecycle._listen(PORT) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
