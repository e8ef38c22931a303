"""`--proxies`: what running proxies say, recorded on the lab, beside what the objects say."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tlscheck import __main__ as command
from tlscheck import proxies, sources

Json = dict[str, Any]
Done = subprocess.CompletedProcess[bytes]
ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "tests" / "cases" / "recorded-proxies.json").read_text())
PODS = {name.split("/")[1].split("-")[0]: name for name in RECORDED["proxies"]}
SPIFFE = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-"
DUMP, CERTS = "config_dump?include_eds", "certs"


class Cluster:
    """Answers kubectl as the lab did; a test changes the answers."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.objects: list[Json] = copy.deepcopy(RECORDED["objects"])
        self.proxies: dict[str, Json] = copy.deepcopy(RECORDED["proxies"])
        self.refused: dict[str, str] = {}
        self.asked: list[list[str]] = []

    def kubectl(self, argv: Sequence[str]) -> Done:
        if "exec" not in argv:
            items = [] if "configmaps" in argv else self.objects
            return Done(argv, 0, json.dumps({"kind": "List", "items": items}).encode(), b"")
        pod = f"{argv[argv.index('-n') + 1]}/{argv[argv.index('exec') + 1]}"
        self.asked.append([pod, *argv[argv.index("-c") :]])
        if pod in self.refused:
            return Done(argv, 1, b"", self.refused[pod].encode())
        answer = self.proxies[pod][argv[-1]]
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return Done(argv, 0, text.encode(), b"")

    def run(self, *argv: str) -> tuple[int, str, str]:
        out = io.StringIO()
        code = command.main(["--proxies", *argv], io.BytesIO(), out)
        return code, out.getvalue(), self._capsys.readouterr().err

    def pair(self, server: str, *argv: str) -> tuple[int, str, str]:
        return self.run("productpage-v1.bookinfo", f"{server}.bookinfo:9080", *argv)

    def row(self, server: str) -> Json:
        found: Json = json.loads(self.pair(server, "--output", "json")[1])["rows"][0]
        return found


@pytest.fixture
def cluster(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(capsys)
    monkeypatch.setattr(sources, "_run", made.kubectl)
    monkeypatch.setattr(proxies, "_run", made.kubectl)
    monkeypatch.setattr(proxies, "_now", lambda: datetime(2026, 11, 23, 12, tzinfo=UTC))
    return made


def codes(output: str) -> list[tuple[str, str]]:
    return [(w["code"], w["subject"]) for w in json.loads(output)["warnings"]]


# --- agreement ------------------------------------------------------------------------------------


def test_proxies_that_have_what_the_objects_say_agree(cluster: Cluster) -> None:
    code, out, err = cluster.pair("details")
    assert (code, err) == (0, "")
    assert "ISTIO_MUTUAL ✅  agree    automatic mTLS" in out
    assert out.splitlines()[-1] == "TLS Mode: ISTIO_MUTUAL ✅"


def test_the_columns_after_the_sign_stand_below_their_heads(cluster: Cluster) -> None:
    head, line = cluster.pair("details")[1].splitlines()[:2]
    # the sign is two cells wide and one character
    assert line.index("agree") + 1 == head.index("PROXIES")
    assert line.index("automatic mTLS") + 1 == head.index("WHY")


def test_json_has_each_sides_mode_identity_certificate_and_counters(cluster: Cluster) -> None:
    assert cluster.row("details")["observed"] == {
        "agrees": True,
        "client": {
            "mode": "ISTIO_MUTUAL",
            "identity": f"{SPIFFE}productpage",
            "expires": "2026-11-24T09:27:26Z",
            "valid": True,
            "handshakes": 2,
            "connections": 2,
            "failed": 0,
        },
        "server": {
            "mode": "STRICT",
            "identity": f"{SPIFFE}details",
            "expires": "2026-11-24T09:09:44Z",
            "valid": True,
            "handshakes": None,
        },
    }


def test_a_pair_shows_what_each_proxy_told_before_the_verdict(cluster: Cluster) -> None:
    lines = cluster.pair("details")[1].splitlines()
    client, server = [line for line in lines if line.startswith("  seen:   ")]
    assert client.endswith(
        f"has ISTIO_MUTUAL, {SPIFFE}productpage until 2026-11-24T09:27:26Z, "
        "2 connections opened, 0 failed, 2 TLS handshakes"
    )
    assert server.endswith(f"has STRICT, {SPIFFE}details until 2026-11-24T09:09:44Z")


# --- disagreement ---------------------------------------------------------------------------------


def test_an_envoy_filter_that_objects_do_not_show_is_a_disagreement(cluster: Cluster) -> None:
    code, out, err = cluster.pair("reviews")
    assert code == 1
    assert "client PLAINTEXT  DestinationRule bookinfo/reviews sets tls" in out
    assert f"warning: PROXY_DISAGREES Pod {PODS['productpage']}: as client of reviews" in out
    assert out.splitlines()[-1] == "TLS Mode: ISTIO_MUTUAL by the objects, not by the proxies ❌"
    assert err.startswith("tlscheck: the proxies disagree: bookinfo/productpage-v1")


def test_a_server_that_takes_plaintext_against_its_policy_is_a_disagreement(
    cluster: Cluster,
) -> None:
    sections = cluster.proxies[PODS["details"]][DUMP]["configs"]
    (listener,) = [s for s in sections if "dynamic_listeners" in s]
    chains = listener["dynamic_listeners"][0]["active_state"]["listener"]["filter_chains"]
    chains.append({"filter_chain_match": {"destination_port": 9080}})
    code, out, _ = cluster.pair("details", "--output", "json")
    assert (code, codes(out)) == (1, [("PROXY_DISAGREES", f"Pod {PODS['details']}")])
    observed = json.loads(out)["rows"][0]["observed"]
    assert (observed["agrees"], observed["server"]["mode"]) == (False, "PERMISSIVE")


def test_the_table_parts_the_clients_that_the_proxies_part(cluster: Cluster) -> None:
    code, out, _ = cluster.run("--to", "reviews")
    lines = [line for line in out.splitlines() if "reviews.bookinfo" in line and " - " in line]
    seen = {name: line for line in lines for name in ("details", "productpage") if name in line}
    assert code == 1
    assert "client PLAINTEXT" in seen["productpage"]
    assert "  agree  " in seen["details"]


def test_a_disagreement_fails_its_junit_test_case(cluster: Cluster) -> None:
    code, out, _ = cluster.pair("reviews", "--output", "junit")
    failures = [one.get("message") for one in ET.fromstring(out).iter("failure")]  # noqa: S314
    assert code == 1
    assert set(failures) == {"the proxies: client PLAINTEXT"}
    code, out, _ = cluster.pair("details", "--output", "junit")
    assert (code, [*ET.fromstring(out).iter("failure")]) == (0, [])  # noqa: S314


# --- certificates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["productpage", "details"])
@pytest.mark.parametrize(
    "change",
    [{"expiration_time": "2026-11-23T11:59:59Z"}, {"valid_from": "2026-11-23T12:00:01Z"}, None],
)
def test_mutual_tls_without_a_valid_certificate_is_told_and_fails(
    cluster: Cluster, side: str, change: Json | None
) -> None:
    answer = cluster.proxies[PODS[side]][CERTS]
    if change is None:
        answer["certificates"] = []
    else:
        answer["certificates"][0]["cert_chain"][0] |= change
    code, out, _ = cluster.pair("details", "--output", "json")
    assert (code, codes(out)) == (1, [("PROXY_CERTIFICATE", f"Pod {PODS[side]}")])


# --- what cannot be read --------------------------------------------------------------------------


def test_a_proxy_that_cannot_be_asked_is_named_and_is_no_disagreement(cluster: Cluster) -> None:
    cluster.refused[PODS["details"]] = "Error from server (Forbidden): pods/exec is forbidden\n"
    code, out, _ = cluster.pair("details")
    warning = (
        f"warning: PROXY_NOT_READ Pod {PODS['details']}: was not asked: Error from server (For"
    )
    assert code == 0
    assert warning in out
    assert "  server not read  " in out
    assert out.splitlines()[-1] == "TLS Mode: ISTIO_MUTUAL ✅"
    assert cluster.row("details")["observed"]["agrees"] is None


@pytest.mark.parametrize("answer", ["no JSON", "[]", "{}", '{"configs": [{"static_clusters": 1}]}'])
def test_an_answer_that_makes_no_sense_is_no_traceback(cluster: Cluster, answer: str) -> None:
    cluster.proxies[PODS["details"]][DUMP] = answer
    cluster.proxies[PODS["details"]][CERTS] = "[]"
    code, _, err = cluster.pair("details")
    assert code in (0, 1)
    assert "a defect" not in err


def test_when_no_proxy_answers_nothing_is_claimed(cluster: Cluster) -> None:
    cluster.refused = dict.fromkeys(cluster.proxies, "error: no such container")
    code, out, err = cluster.pair("details")
    assert (code, out) == (2, "")
    assert "no proxy could be asked; " in err
    assert "no such container" in err


def test_a_proxy_that_hangs_is_left(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(argv: Sequence[str]) -> Done:
        if "clusters?format=json" in argv and PODS["details"].split("/")[1] in argv:
            raise subprocess.TimeoutExpired(argv, 1)
        return cluster.kubectl(argv)

    monkeypatch.setattr(proxies, "_run", hangs)
    assert "was not asked: no answer (TimeoutExpired)" in cluster.pair("details")[1]


def test_an_endpoint_that_the_client_has_not_heard_of_yet_is_no_disagreement(
    cluster: Cluster,
) -> None:
    sections = cluster.proxies[PODS["productpage"]][DUMP]["configs"]
    (endpoints,) = [s for s in sections if "dynamic_endpoint_configs" in s]
    endpoints["dynamic_endpoint_configs"] = []
    code, out, _ = cluster.pair("details")
    assert code == 0
    assert "  no endpoint yet  " in out


def test_proxies_need_a_cluster(cluster: Cluster) -> None:
    code, _, err = cluster.run("-f", "-")
    assert code == 2
    assert "--proxies asks the proxies of a cluster" in err


# --- what is asked --------------------------------------------------------------------------------


def test_only_the_proxies_at_the_ends_of_the_chosen_connections_are_asked(cluster: Cluster) -> None:
    cluster.pair("details")
    assert {pod for pod, *_ in cluster.asked} == {PODS["productpage"], PODS["details"]}


def test_a_proxy_is_asked_through_its_own_agent_and_told_nothing(cluster: Cluster) -> None:
    cluster.pair("details")
    words = {tuple(words[:-1]) for _, *words in cluster.asked}
    assert words == {("-c", "istio-proxy", "--", "pilot-agent", "request", "GET")}


def test_a_workload_without_a_proxy_is_not_asked(cluster: Cluster) -> None:
    for one in cluster.objects:
        if one["metadata"]["name"].startswith("details-v1"):
            one["metadata"].pop("annotations")
            one["metadata"]["labels"].pop("security.istio.io/tlsMode")
            one["spec"] = {"containers": [{"name": "details"}]}
    cluster.pair("details")
    assert {pod for pod, *_ in cluster.asked} == {PODS["productpage"]}


@pytest.mark.parametrize("output", ["table", "json", "junit"])
def test_nothing_of_a_proxys_secrets_is_printed(cluster: Cluster, output: str) -> None:
    secret = {"name": "default", "secret": {"tls_certificate": {"private_key": "hunter2"}}}
    for answers in cluster.proxies.values():
        answers[DUMP]["configs"].append({"dynamic_active_secrets": [secret]})
    _, out, err = cluster.pair("details", "--output", output)
    assert "hunter2" not in out + err


def test_without_the_flag_no_proxy_is_asked_and_no_row_has_more_fields(cluster: Cluster) -> None:
    out = io.StringIO()
    command.main(["--output", "json"], io.BytesIO(), out)
    assert cluster.asked == []
    assert all("observed" not in row for row in json.loads(out.getvalue())["rows"])
