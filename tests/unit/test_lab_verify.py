"""When an edge of Bookinfo counts as proven, and how that is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from lab import verify
from lab.lifecycle import LabError
from lab.playground import Answer
from lab.verify import Proof, prove, table

if TYPE_CHECKING:
    from lab.playground import Playground

_IDENTITY = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-"
_OUTPUTS = {
    "mtls": {"istio-system": "PERMISSIVE", "bookinfo": "STRICT"},
    "controlPlaneNamespace": "istio-system",
}


def _answer(
    peer: str | None = None, *, status: int | None = 200, error: str | None = None
) -> Answer:
    headers = {} if peer is None else {"x-forwarded-client-cert-seen": peer}
    return Answer(status=status, error=error, headers=headers, body="")


REFUSED = _answer(status=None, error="reset")
ACCEPTED = _answer()
MUTUAL = _answer(f'By={_IDENTITY}details;Hash=1f;Subject="";URI={_IDENTITY}productpage')


def _proof(
    answer: Answer, plaintext: Answer, *, strict: bool, configured: str = "ISTIO_MUTUAL"
) -> Proof:
    return Proof(
        client="productpage v1",
        server="details",
        answer=answer,
        plaintext=plaintext,
        strict=strict,
        configured=configured,
    )


@pytest.mark.parametrize(
    ("answer", "strict", "plaintext", "ok"),
    [
        (MUTUAL, True, REFUSED, True),
        (MUTUAL, True, ACCEPTED, False),
        (MUTUAL, False, REFUSED, True),
        (MUTUAL, False, ACCEPTED, True),
        (ACCEPTED, True, REFUSED, False),
        (ACCEPTED, True, ACCEPTED, False),
        (ACCEPTED, False, REFUSED, False),
        (ACCEPTED, False, ACCEPTED, False),
    ],
)
def test_an_edge_needs_a_certificate_and_under_strict_a_refusal(
    *, answer: Answer, strict: bool, plaintext: Answer, ok: bool
) -> None:
    assert _proof(answer, plaintext, strict=strict).ok is ok


@pytest.mark.parametrize(
    "answer",
    [
        REFUSED,
        _answer(""),
        _answer("By=spiffe://cluster.local/ns/bookinfo/sa/x"),
        _answer("URI="),
        _answer("URI=https://cluster.local/ns/bookinfo/sa/x"),
    ],
    ids=["no-answer", "empty", "server-only", "no-uri", "no-spiffe"],
)
def test_without_a_clients_certificate_of_the_mesh_nothing_was_encrypted(answer: Answer) -> None:
    assert not _proof(answer, REFUSED, strict=True).encrypted


def test_what_a_server_saw_is_read_whatever_the_case_of_its_header() -> None:
    seen = {"X-Forwarded-Client-Cert-Seen": f"Hash=1f;URI={_IDENTITY}productpage"}
    told = {"status": 200, "error": None, "headers": seen, "body": None}
    answer = Answer.parse(json.dumps(told))
    assert answer.peer["URI"] == f"{_IDENTITY}productpage"
    assert answer.body == ""


def test_the_table_tells_an_edge_with_a_certificate_from_one_without() -> None:
    proofs = [_proof(MUTUAL, REFUSED, strict=True), _proof(ACCEPTED, ACCEPTED, strict=True)]
    head, good, bad = table(proofs).splitlines()
    assert good.endswith("refused (reset)  ✅")
    assert bad.endswith("❌")
    assert "none seen" in bad
    assert "accepted" in bad
    assert head.index("PLAINTEXT") == good.index("refused") == bad.index("accepted")


def test_the_table_says_why_there_was_no_answer() -> None:
    (_, line) = table([_proof(REFUSED, REFUSED, strict=True)]).splitlines()
    assert line.split()[3] == "reset"
    assert line.endswith("❌")


def test_an_identity_is_told_without_the_trust_domain_of_the_cluster() -> None:
    (_, line) = table([_proof(MUTUAL, REFUSED, strict=True)]).splitlines()
    assert "  ns/bookinfo/sa/bookinfo-productpage  ns/bookinfo/sa/bookinfo-details  " in line
    assert "spiffe" not in line
    foreign = "spiffe://elsewhere/ns/bookinfo/sa/x"
    (_, line) = table([_proof(_answer(f"URI={foreign}"), REFUSED, strict=True)]).splitlines()
    assert f"  {foreign}  none seen  " in line


_CONFIGURED = (
    ("istio-system/istio=ingressgateway-v1-x", "productpage"),
    ("bookinfo/productpage-v1-x", "details"),
    ("bookinfo/productpage-v1-x", "reviews"),
    ("bookinfo/reviews-v1-x", "ratings"),
    ("bookinfo/reviews-v2-x", "ratings"),
)


class _Play:
    """A cluster in which every request is answered as `answers` says."""

    def __init__(self, plaintext: Answer) -> None:
        self.plaintext = plaintext
        self.commands: list[tuple[str, ...]] = []
        self.ready_fails = False
        self.rows = [
            {"from": f"{pod}", "host": f"{server}.bookinfo.svc", "effective": "ISTIO_MUTUAL"}
            for pod, server in _CONFIGURED
        ]

    def apply(self, *objects: dict[str, Any]) -> None:
        self.commands += [("apply", one["kind"], one["metadata"]["name"]) for one in objects]

    def ready(self, *_: str) -> None:
        if self.ready_fails:
            raise LabError("rollout timed out")

    def get(self, namespace: str, _: str, url: str) -> Answer:
        self.commands.append(("get", namespace, url))
        return self.plaintext

    def pods(self, _: str, selector: str) -> list[dict[str, Any]]:
        app = selector.removeprefix("app=")
        versions = ("v1", "v2") if app == "reviews" else ("v1",)
        return [
            {"metadata": {"name": f"{app}-{v}-x", "labels": {"app": app, "version": v}}}
            for v in versions
        ]

    def kubectl(self, *words: str) -> str:
        self.commands.append(words)
        headers = {"x-forwarded-client-cert-seen": f"URI={_IDENTITY}someone"}
        return json.dumps({"status": 200, "error": None, "headers": headers, "body": ""})

    def prove(self, outputs: dict[str, Any]) -> list[Proof]:
        url = "http://127.0.0.1:1/productpage"
        return list(prove(cast("Playground", self), outputs, url, self.rows))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> _Play:
    def page(_: str) -> Answer:
        return _answer(f"URI={_IDENTITY}gateway")

    monkeypatch.setattr(verify, "_from_outside", page)
    return _Play(REFUSED)


def test_every_pod_of_every_edge_is_asked_and_the_gateway_too(play: _Play) -> None:
    edges = [(one.client, one.server) for one in play.prove(_OUTPUTS)]
    assert edges == [
        ("ingress gateway", "productpage"),
        ("productpage v1", "details"),
        ("productpage v1", "reviews"),
        ("reviews v1", "ratings"),
        ("reviews v2", "ratings"),
    ]
    asked = [words[3] for words in play.commands if "exec" in words]
    assert asked == ["productpage-v1-x", "productpage-v1-x", "reviews-v1-x", "reviews-v2-x"]


@pytest.mark.parametrize(
    ("mode", "ok"),
    [
        ("STRICT", False),
        ("STRICT, except app=legacy port 9090 DISABLE (old)", False),
        ("PERMISSIVE", True),
    ],
)
def test_whether_plaintext_must_be_refused_is_the_applications_mode(
    play: _Play, mode: str, *, ok: bool
) -> None:
    play.plaintext = ACCEPTED
    modes = {"istio-system": "STRICT", "bookinfo": mode}
    assert {one.ok for one in play.prove({**_OUTPUTS, "mtls": modes})} == {ok}


def test_an_edge_that_is_not_configured_as_it_was_seen_is_not_proven(play: _Play) -> None:
    play.rows[1]["effective"] = "PLAINTEXT"
    wrong = [(one.client, one.server) for one in play.prove(_OUTPUTS) if not one.ok]
    assert wrong == [("productpage v1", "details")]


@pytest.mark.parametrize("error", ["timeout", "refused", "dns: no such name"])
def test_plaintext_that_never_reached_the_server_is_no_refusal(error: str) -> None:
    lost = _answer(status=None, error=error)
    assert not _proof(MUTUAL, lost, strict=True).ok


def _namespaces(play: _Play) -> list[str]:
    return [words[2] for words in play.commands if words[:2] == ("apply", "Namespace")]


def test_the_probe_without_a_sidecar_asks_every_server_and_goes_again(play: _Play) -> None:
    play.prove(_OUTPUTS)
    (plain,) = _namespaces(play)
    asked = [words[1:] for words in play.commands if words[0] == "get"]
    servers = ("productpage", "details", "reviews", "ratings")
    assert asked == [(plain, f"http://{server}.bookinfo:9080/health") for server in servers]
    assert ("delete", "namespace", plain, "--wait=false") in play.commands


def test_the_probe_goes_though_it_never_became_ready(play: _Play) -> None:
    play.ready_fails = True
    with pytest.raises(LabError):
        play.prove(_OUTPUTS)
    (plain,) = _namespaces(play)
    assert play.commands[-1][:3] == ("delete", "namespace", plain)


def test_the_next_proof_does_not_wait_for_the_last_ones_namespace(play: _Play) -> None:
    play.prove(_OUTPUTS)
    play.prove(_OUTPUTS)
    first, second = _namespaces(play)
    assert first != second
