"""What ends `make up`, and which witness `make verify` calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import __main__ as command
from lab import dashboard, stack
from lab.lifecycle import LabError
from lab.paths import LabPaths
from lab.playground import Answer
from lab.stack import Stack
from lab.summary import text
from lab.verify import Proof

_OUTPUTS = {
    "mtls": {"istio-system": "STRICT", "bookinfo": "STRICT"},
    "controlPlaneNamespace": "istio-system",
    "profile": "demo",
    "productpage": "kubectl port-forward",
}
_PATHS = LabPaths()


def _stack(config: Path | None = None) -> Stack:
    return Stack(name="dev", variables={}, config=config)


def _proof(**changes: Any) -> Proof:
    seen = {"x-forwarded-client-cert-seen": "URI=spiffe://cluster.local/ns/a/sa/b"}
    facts: dict[str, Any] = {
        "client": "a",
        "server": "b",
        "answer": Answer(status=200, error=None, headers=seen, body=""),
        "plaintext": Answer(status=None, error="reset", headers={}, body=""),
        "wanted": True,
        "strict": True,
        "configured": "ISTIO_MUTUAL",
    }
    return Proof(**{**facts, **changes})


class Tlscheck:
    """Stands for the command, and remembers how it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.code, self.out, self.words = 0, '{"rows": []}', [""]
        monkeypatch.setattr(subprocess, "run", self._run)

    def _run(self, words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.words = words
        return subprocess.CompletedProcess(words, self.code, self.out, "tlscheck: no such context")


@pytest.fixture
def tlscheck(monkeypatch: pytest.MonkeyPatch) -> Tlscheck:
    return Tlscheck(monkeypatch)


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[Proof]:
    made = [_proof()]
    monkeypatch.setattr(command, "prove", lambda *_: made)
    monkeypatch.setattr(command, "_url", lambda _: "http://127.0.0.1:1/productpage")
    return made


@pytest.mark.usefixtures("proofs")
def test_on_the_lab_requests_are_the_proof(tlscheck: Tlscheck, tmp_path: Path) -> None:
    stack = _stack(tmp_path / "Pulumi.dev.yaml")
    proof, proven = command._verify(stack, _OUTPUTS, _PATHS)
    assert (proven, "PLAINTEXT" in proof) == (True, True)
    assert "--proxies" not in tlscheck.words


@pytest.mark.parametrize("change", [{"profile": "minimal"}, {"productpage": None}])
@pytest.mark.usefixtures("proofs")
def test_where_bookinfo_cannot_be_asked_the_proxies_are(
    tlscheck: Tlscheck, tmp_path: Path, change: dict[str, Any]
) -> None:
    outputs = {k: v for k, v in {**_OUTPUTS, **change}.items() if v}
    command._verify(_stack(tmp_path / "Pulumi.dev.yaml"), outputs, _PATHS)
    assert "--proxies" in tlscheck.words


def test_on_another_cluster_only_the_proxies_are_asked(
    tlscheck: Tlscheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "cluster", lambda _: ["--context", "mine"])
    observed = {"agrees": False, "client": {}, "server": {}}
    row = {"from": "bookinfo/reviews-v1-x", "to": "bookinfo/ratings-v1-x", "observed": observed}
    row |= {"host": "ratings.bookinfo.svc.cluster.local", "effective": "ISTIO_MUTUAL"}
    tlscheck.code, tlscheck.out = 1, json.dumps({"rows": [row]})
    proof, proven = command._verify(_stack(), _OUTPUTS, _PATHS)
    assert (proven, proof.splitlines()[-1].split()[-2:]) == (False, ["disagree", "❌"])
    assert tlscheck.words[3:5] == ["--context", "mine"]
    assert tlscheck.words[-3:] == ["--proxies", "--to", "*.bookinfo"]


def test_a_cluster_that_cannot_be_read_is_no_proof(
    tlscheck: Tlscheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "cluster", lambda _: [])
    tlscheck.code = 2
    with pytest.raises(LabError, match="no such context"):
        command._verify(_stack(), _OUTPUTS, _PATHS)


@pytest.mark.parametrize(("configured", "code"), [("ISTIO_MUTUAL", 0), ("PLAINTEXT", 1)])
def test_up_ends_with_the_proof_and_fails_when_it_does(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    proofs: list[Proof],
    configured: str,
    code: int,
) -> None:
    def told(_: Stack, outputs: dict[str, Any], url: str | None, proof: str) -> str:
        return f"{outputs['profile']} {url}\n{proof}"

    proofs[:] = [_proof(configured=configured)]
    monkeypatch.setattr(command, "_outputs", lambda _: _OUTPUTS)
    monkeypatch.setattr(command, "_rows", lambda *_: [])
    monkeypatch.setattr(command, "_on", lambda *_: True)
    monkeypatch.setattr(command, "summarise", told)
    stack = _stack(Path("Pulumi.dev.yaml"))
    assert command._summary(stack, _PATHS) == code
    said = capsys.readouterr()
    assert configured in said.out
    assert ("should be" in said.err) == bool(code)


def test_where_no_pod_runs_up_says_that_nothing_is_proven(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_outputs", lambda _: _OUTPUTS)
    monkeypatch.setattr(command, "_on", lambda *_: False)
    monkeypatch.setattr(command, "summarise", lambda *words: str(words[-1]))
    assert command._summary(_stack(Path("Pulumi.dev.yaml")), _PATHS) == 0
    assert "not proven" in capsys.readouterr().out


def test_a_long_mode_pushes_its_columns_aside() -> None:
    modes = {"istio-system": "STRICT", "bookinfo": "STRICT, except app=ratings DISABLE (old)"}
    outputs = {**_OUTPUTS, "mtls": modes, "istioVersion": "1.31.0", "kubeContext": "lab"}
    lines = text(outputs, []).splitlines()
    head = next(line for line in lines if "PODS READY" in line)
    rows = [line for line in lines if "0 of 0" in line]
    assert {line.index("0 of 0") for line in rows} == {head.index("PODS READY")}


def _main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lab", *words])
    return command.main()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How a dashboard was asked for."""
    found: list[Any] = []
    monkeypatch.setattr(command, "_outputs", lambda _: _OUTPUTS)
    monkeypatch.setattr(stack, "needs_lab", lambda name: name == "dev")
    monkeypatch.setattr(stack, "open_stack", lambda name, _: _stack(Path(name)))
    monkeypatch.setattr(command, "running", lambda _: None)
    monkeypatch.setattr(dashboard, "show", lambda *words: found.append(words))
    return found


def test_a_dashboard_starts_no_lab(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shown: list[Any]
) -> None:
    assert _main(monkeypatch, "dashboard", "kiali") == 1
    assert capsys.readouterr().err == "error: no lab is running; `make up` starts one\n"
    assert shown == []


def test_a_dashboard_of_another_cluster_needs_no_lab(
    monkeypatch: pytest.MonkeyPatch, shown: list[Any]
) -> None:
    assert _main(monkeypatch, "dashboard", "grafana", "--stack", "prod", "--port", "8080") == 0
    ((part, opened, outputs, _, port),) = shown
    assert (part, opened.config, outputs, port) == ("grafana", Path("prod"), _OUTPUTS, 8080)


@pytest.mark.usefixtures("shown")
def test_ctrl_c_ends_a_dashboard_without_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dashboard, "show", interrupted)
    assert _main(monkeypatch, "dashboard", "kiali", "--stack", "prod") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("shown")
def test_an_unknown_dashboard_is_answered_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        _main(monkeypatch, "dashboard", "zipkin")
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    for part in dashboard.Part:
        assert part in said


def _next(outputs: dict[str, Any], *pods: dict[str, Any]) -> list[str]:
    told = text({**_OUTPUTS, "istioVersion": "1", "kubeContext": "x", **outputs}, pods)
    return told.partition("Next:")[2].splitlines()


def test_dashboards_of_the_stack_are_what_to_try_next() -> None:
    lines = _next({"observability": {"prometheus": "http://x", "kiali": "http://x"}})
    assert [line.split()[:2] for line in lines if line][1:3] == [
        ["make", "kiali"],
        ["make", "prometheus"],
    ]
    words = [line for line in lines if "make" in line]
    assert len({line.index(line.split()[2], 16) for line in words}) == 1, "one column"


def test_what_the_stack_has_not_or_is_simulated_is_not_offered() -> None:
    assert "make kiali" not in "".join(_next({}))
    meta = {"namespace": "istio-system", "labels": {"app": "kiali"}}
    pod = {"metadata": {**meta, "annotations": {"service-mesh.lab/simulated": "no process"}}}
    urls = {"observability": {"prometheus": "http://x", "kiali": "http://x"}}
    said = "".join(_next(urls, pod))
    assert "make kiali" not in said
    assert "make prometheus" in said
