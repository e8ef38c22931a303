"""When an edge of Bookinfo counts as proven, and how that is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from lab import verify
from lab.lifecycle import LabError
from lab.playground import Answer
from lab.verify import Intent, Proof, prove, table, witness_table, witnessed

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
    answer: Answer,
    plaintext: Answer,
    *,
    strict: bool,
    configured: str = "ISTIO_MUTUAL",
    wanted: bool = True,
) -> Proof:
    return Proof(
        client="productpage v1",
        server="details",
        answer=answer,
        plaintext=plaintext,
        wanted=wanted,
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
        self.early: list[Answer] = []
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
        return self.early.pop() if self.early else self.plaintext

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
    monkeypatch.setattr(verify, "_SETTLED_WITHIN_S", 0)
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
    assert sorted(asked) == ["productpage-v1-x", "productpage-v1-x", "reviews-v1-x", "reviews-v2-x"]


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
    assert sorted(asked) == sorted(
        (plain, f"http://{name}.bookinfo:9080/health") for name in servers
    )
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


# --- what has to be mutual TLS --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "wanted", "strict"),
    [
        ("STRICT", True, True),
        ("PERMISSIVE", True, False),
        ("DISABLE", False, False),
        ("STRICT, except app=ratings DISABLE (old)", False, False),
        ("STRICT, except app=ratings port 9080 DISABLE (old)", False, False),
        ("STRICT, except app=ratings PERMISSIVE (old)", True, False),
        ("STRICT, except app=ratings-two DISABLE (old)", True, True),
        ("DISABLE, except app=ratings STRICT (new)", True, False),
    ],
)
def test_the_stacks_own_words_say_which_calls_have_to_be_mutual_tls(
    mode: str, *, wanted: bool, strict: bool
) -> None:
    intent = Intent(where="bookinfo", mode=mode)
    assert (intent.wanted("ratings"), intent.strict("ratings")) == (wanted, strict)


def test_plaintext_that_the_stack_asks_for_is_no_failure_and_no_proof() -> None:
    proof = _proof(ACCEPTED, ACCEPTED, strict=False, configured="PLAINTEXT", wanted=False)
    assert proof.ok
    assert table([proof]).endswith("accepted   not asked for")


def test_a_setting_that_the_proxies_do_not_have_yet_is_waited_for(
    play: _Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_SETTLED_WITHIN_S", 60)
    monkeypatch.setattr("time.sleep", lambda _: None)
    play.early = [ACCEPTED, ACCEPTED]
    assert all(one.ok for one in play.prove(_OUTPUTS))


# --- on a cluster that is not the lab -------------------------------------------------------------


def _row(client: str, host: str, *, agrees: bool | None = True, **more: object) -> dict[str, Any]:
    side = {"mode": "STRICT", "identity": f"{_IDENTITY}someone"}
    observed = {"agrees": agrees, "client": side, "server": side}
    row = {"from": client, "to": "bookinfo/server", "host": f"{host}.svc.cluster.local"}
    return {**row, "effective": "ISTIO_MUTUAL", "observed": observed, **more}


_CALL = ("bookinfo/reviews-v1-x", "ratings.bookinfo")
_WITH_CALLS = {
    **_OUTPUTS,
    "calls": [
        {"client": "istio-system/istio-ingressgateway-*", "server": "productpage.bookinfo"},
        {"client": "bookinfo/productpage-*", "server": "details.bookinfo"},
        {"client": "bookinfo/productpage-*", "server": "reviews.bookinfo"},
        {"client": "bookinfo/reviews-*", "server": "ratings.bookinfo"},
    ],
}


def test_the_edges_of_the_call_graph_are_witnessed_and_no_others() -> None:
    rows = [
        _row("istio-system/istio-ingressgateway-x", "productpage.bookinfo"),
        _row("bookinfo/productpage-v1-x", "details.bookinfo"),
        _row(*_CALL),
        _row(*_CALL, subset="v1"),
        _row("bookinfo/ratings-v1-x", "reviews.bookinfo"),
        _row("bookinfo/reviews-v1-x", "ratings.elsewhere"),
        _row("other/reviews-v1-x", "ratings.bookinfo"),
    ]
    assert [one.row for one in witnessed(_WITH_CALLS, rows)] == rows[:3]


def test_without_bookinfo_every_call_between_two_proxies_counts() -> None:
    alone = _row("bookinfo/a", "b.bookinfo")
    alone["observed"].pop("client")
    rows = [_row("bookinfo/a", "b.bookinfo"), alone]
    assert [one.row for one in witnessed(_OUTPUTS, rows)] == rows[:1]


@pytest.mark.parametrize(
    ("change", "ok", "end"),
    [
        ({}, True, "ISTIO_MUTUAL  agree    ✅"),
        ({"agrees": False}, False, "ISTIO_MUTUAL  disagree  ❌"),
        ({"agrees": None}, False, "ISTIO_MUTUAL  not read  ❌"),
        ({"effective": "PLAINTEXT"}, False, "PLAINTEXT   agree    ❌"),
        ({"effective": "HBONE"}, True, "HBONE       agree    ✅"),
    ],
)
def test_an_edge_is_proven_when_objects_and_both_proxies_say_mutual_tls(
    change: dict[str, Any], *, ok: bool, end: str
) -> None:
    found = witnessed(_WITH_CALLS, [_row(*_CALL, **change)])
    assert [one.ok for one in found] == [ok]
    assert witness_table(found).endswith(end)


def test_a_witnessed_edge_that_the_stack_frees_is_no_failure() -> None:
    modes = {"istio-system": "STRICT", "bookinfo": "STRICT, except app=ratings DISABLE (old)"}
    (one,) = witnessed({**_WITH_CALLS, "mtls": modes}, [_row(*_CALL, effective="PLAINTEXT")])
    assert one.ok


def test_where_there_is_nothing_to_witness_that_is_said() -> None:
    assert witness_table([]) == "nothing to prove: no call between two proxies"
