"""The command: what it prints, and its exit code, on every kind of input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tlscheck import __main__ as command
from tlscheck import changes, edges, report, sources
from tlscheck.advice import Facts
from tlscheck.evaluate import rows
from tlscheck.model import MeshConfig
from tlscheck.rows import Effective
from tlscheck.world import World

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
CASES = json.loads((ROOT / "tests" / "cases" / "mtls-cases.json").read_text())["cases"]
BY_ID = {case["id"]: case for case in CASES}


class Cli:
    """Runs the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: str, objects: Sequence[Any] = (), stdin: bytes = b"") -> Done:
        text = yaml.safe_dump_all(objects).encode() if objects else stdin
        source = ["-f", "-"] if objects or stdin else []
        out = io.StringIO()
        code = command.main([*argv, *source], io.BytesIO(text), out)
        return Done(code, out.getvalue(), self._capsys.readouterr().err)


class Done:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def last(self) -> str:
        return self.out.splitlines()[-1]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def objects(case: str, *more: Json) -> list[Json]:
    return [*BY_ID[case]["objects"], *more]


def pod(
    name: str, namespace: str, *, sidecar: bool = True, owner: str = "", **spec: object
) -> Json:
    labels, annotations = {"app": name}, {}
    if sidecar:
        labels["security.istio.io/tlsMode"] = "istio"
        annotations["sidecar.istio.io/status"] = "{}"
    meta: Json = {"name": name, "namespace": namespace, "labels": labels}
    meta["annotations"] = annotations
    if owner:
        labels["pod-template-hash"] = "5d9c"
        meta["ownerReferences"] = [{"kind": "ReplicaSet", "name": f"{owner}-5d9c"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def namespace(name: str, **labels: str) -> Json:
    dotted = {key.replace("_", "-"): value for key, value in labels.items()}
    meta = {"name": name, "labels": dotted}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


# --- the case file --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_json_on_a_case_has_the_cases_rows(case: Json, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(case["objects"]))
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(case["mesh"]))
    given = ("-f", str(tmp_path / "objects.yaml"), "--mesh-config", str(tmp_path / "mesh.yaml"))
    done = cli(*given, "--output", "json")
    found = json.loads(done.out)
    assert set(found) == {"rows", "warnings", "ignored"}
    for expected in case["expect"]:
        wanted = {key: value for key, value in expected.items() if key != "why"}
        same = [row for row in found["rows"] if wanted.items() <= row.items()]
        assert len([row for row in same if ("subset" in row) == ("subset" in expected)]) == 1, (
            wanted
        )
    assert done.code == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_table_stands_for_the_same_connections_as_json(case: Json) -> None:
    world = World.parse(case["objects"], MeshConfig.parse(case["mesh"]))
    every = {(row.client_name, *report.answer(row), row.server_name) for row in rows(world)}
    lines = [*edges.Selection(None, None, None, Facts(())).lines(world)]
    endpoints = {(host, port, subset): set[str]() for _, host, port, subset, *_ in every}
    for row in rows(world):
        endpoints[row.host, row.port, row.subset].add(row.server_name)
    shown = {
        (client, *report.answer(line.row), server)
        for line in lines
        for client in line.clients
        for server in line.servers or endpoints[line.row.host, line.row.port, line.row.subset]
    }
    assert every <= shown
    assert all(entry[0] == entry[-1] for entry in shown - every), "only a pod's calls to itself"


# --- one pair -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "pair", "last"),
    [
        ("O01", ("c.cli", "web.srv"), "TLS Mode: ISTIO_MUTUAL ✅"),
        ("O01", ("cli/c", "web.srv.svc.cluster.local:80"), "TLS Mode: ISTIO_MUTUAL ✅"),
        ("O01", ("c.cli", "WEB.srv.svc."), "TLS Mode: ISTIO_MUTUAL ✅"),
        ("O01", ("n.out", "web.srv"), "TLS Mode: PLAINTEXT ❌"),
        ("O02", ("n.out", "web.srv"), "TLS Mode: CONFLICT ❌"),
        ("O22", ("c.cli", "db.example.com"), "TLS Mode: SIMPLE ❌"),
        ("O25", ("ac.cli", "web.on"), "TLS Mode: HBONE ✅"),
        ("O15", ("c.cli", "m.mig"), "TLS Mode: MIXED ❌"),
    ],
)
def test_a_pair_ends_with_its_mode(case: str, pair: tuple[str, str], last: str, cli: Cli) -> None:
    done = cli(*pair, objects=objects(case))
    assert (done.code, done.last, done.err) == (0, last, "")


def test_both_mutual_modes_together_are_not_mixed() -> None:
    modes = Effective
    assert report.verdict([modes.HBONE, modes.ISTIO_MUTUAL]) == "HBONE + ISTIO_MUTUAL ✅"
    assert report.verdict([modes.HBONE, modes.PLAINTEXT]) == "MIXED ❌"


def test_a_pair_that_differs_lists_each_endpoint_and_subset(cli: Cli) -> None:
    out = cli("c.cli", "m.mig", objects=objects("O15")).out
    for edge in ("m-vistio port 80", "m-vlegacy port 80", "m-vlegacy port 80 subset vlegacy"):
        assert f"cli/c -> mig/{edge}\n" in out


LABEL = "kubectl label namespace out istio-injection=enabled && kubectl -n out rollout restart"


@pytest.mark.parametrize(
    ("case", "pair", "more", "change"),
    [
        ("O01", ("n.out", "web.srv"), [], LABEL),
        (
            *("O01", ("n.out", "web.srv"), [namespace("out", istio_injection="enabled")]),
            "change: kubectl -n out rollout restart deployment (the namespace is labelled",
        ),
        (
            *("O01", ("x.out", "web.srv"), [pod("x", "out", sidecar=False, hostNetwork=True)]),
            "take hostNetwork off out/x",
        ),
        (
            *("O01", ("a.out", "web.srv"), [pod("a-5d9c-x", "out", sidecar=False, owner="a")]),
            f"{LABEL} deployment/a",
        ),
        ("O05", ("c.cli", "web.srv"), [], "kubectl -n srv delete destinationrule web"),
        ("O04", ("c.cli", "bare.srv"), [], "kubectl label namespace srv istio-injection=enabled"),
        ("O04", ("c.cli", "bare.srv"), [], "kubectl -n istio-system edit destinationrule default"),
        ("O10", ("c.cli", "web.srv:80"), [], "kubectl -n srv edit peerauthentication w"),
        ("O17", ("c.cli", "web.srv:80"), [], "STRICT"),
        ("O22", ("c.cli", "api.example.com"), [], "tls.mode SIMPLE in a DestinationRule"),
        ("O23", ("c.cli", "h.srv"), [], "give every endpoint of h.srv.svc.cluster.local a sidecar"),
    ],
)
def test_a_pair_says_what_to_change(
    case: str, pair: tuple[str, str], more: list[Json], change: str, cli: Cli
) -> None:
    assert change in cli(*pair, objects=objects(case, *more)).out


def test_a_rule_that_says_nothing_of_tls_is_not_blamed(cli: Cli) -> None:
    out = cli("gwlike.istio-system", "web.srv", objects=objects("O20")).out
    assert "DestinationRule istio-system/opt-out, which says nothing of tls" in out
    assert "delete" not in out


@pytest.mark.parametrize(
    "name", ["web-5d9c-a", "web-5d9c-a.default", "web-5", "web", "web.default"]
)
def test_a_pod_is_found_by_name_by_prefix_and_by_its_deployment(name: str, cli: Cli) -> None:
    given = objects("O01", pod("web-5d9c-a", "default", owner="web"))
    assert "default/web-5d9c-a" in cli(name, "web.srv", objects=given).out


def test_all_pods_of_a_deployment_are_asked(cli: Cli) -> None:
    given = objects("O01", pod("w-5d9c-a", "cli", owner="w"), pod("w-5d9c-b", "cli", owner="w"))
    assert "cli/w-5d9c-a, cli/w-5d9c-b" in cli("w.cli", "web.srv", objects=given).out


def test_a_short_host_is_of_the_pods_namespace(cli: Cli) -> None:
    given = objects("O01", pod("c2", "srv"))
    assert cli("c2.srv", "web", objects=given).last == "TLS Mode: ISTIO_MUTUAL ✅"
    assert cli("-n", "srv", "c2", "web", objects=given).last == "TLS Mode: ISTIO_MUTUAL ✅"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("x", "web.srv"), "no pod default/x"),
        (("c", "web.srv"), "did you mean c.cli?"),
        (("c.cli", "wep.srv"), "did you mean web.srv?"),
        (("c.cli", "web"), "did you mean web.srv?"),
        (("c.cli", "web.srv:81"), "has no port 81, but 80"),
        (("c.cli", "web.srv:http"), "the port is not a number"),
        (("c.cli", "web.srv:99999999999999999999"), "the port is not a number"),
        (("c.cli",), "half a connection"),
        (("c.cli", "web.srv", "--from", "x"), "--from and --to"),
        (("w.two", "web.srv"), "not unique: two/w1, two/w2"),
        (("", "web.srv"), "no pod"),
        (("c.cli", ""), "no service"),
        (("--require", "MTLS"), "modes are ISTIO_MUTUAL"),
        (("--require", ""), "modes are"),
        (("--except", "a:b"), "--except needs --require, --before or --if-strict"),
        (("--require", "HBONE", "--except", "a"), "write FROM:TO"),
        (("--require", "HBONE", "--to", "none"), "proves nothing"),
        (("--output", "yaml"), "invalid choice"),
        (("--nonsense",), "unrecognized"),
        (("--stack-state", "-"), "once"),
        (("--context", "x"), "--context and --kubeconfig"),
        (("--mesh-config", "/nowhere"), "/nowhere: No such file"),
        (("--preview", "/nowhere"), "/nowhere: No such file"),
        (("-f", "/nowhere"), "/nowhere: No such file"),
    ],
)
def test_bad_input_is_one_line_and_2(argv: tuple[str, ...], message: str, cli: Cli) -> None:
    done = cli(*argv, objects=objects("O01", pod("w1", "two"), pod("w2", "two")))
    assert done.code == 2
    assert message in done.err
    assert done.err.startswith("tlscheck: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("asked", [("--before", "."), ("--if-strict", "srv")])
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("c.cli", "web.srv"), "leave a pair out"),
        (("--require", "HBONE"), "leave --require out"),
        (("--prometheus", "http://127.0.0.1:9"), "leave --prometheus out"),
        (("-o", "junit"), "leave --output junit out"),
        (("--ambient",), "leave --mesh-config and --ambient out"),
        (("--except", "a"), "write FROM:TO"),
    ],
)
def test_what_a_change_cannot_be_asked_with_is_one_line_and_2(
    asked: tuple[str, ...], argv: tuple[str, ...], message: str, cli: Cli
) -> None:
    done = cli(*argv, *asked, objects=objects("O01"))
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


# --- the table ------------------------------------------------------------------------------------


def test_clients_with_the_same_answer_share_a_line(cli: Cli) -> None:
    extra = [pod(f"c{number}", "cli") for number in range(4)]
    lines = cli(objects=objects("O02", *extra)).out.splitlines()
    assert lines[0].split() == list(report.COLUMNS)
    assert any(line.startswith("cli/c, cli/c0 (+3) ") and "web.srv " in line for line in lines)
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("--from", "cli/*"), {"cli"}),
        (("--from", "n"), {"out"}),
        (("--from", "c.cli"), {"cli"}),
        (("--from", "none"), set()),
        (("--to", "bare"), {"cli", "out", "srv"}),
        (("--namespace", "out"), {"out"}),
        (("--namespace", "srv", "--from", "out/*", "--to", "web.*"), {"out"}),
    ],
)
def test_filters_leave_the_same_edges_in_the_table_and_in_json(
    argv: tuple[str, ...], shown: set[str], cli: Cli
) -> None:
    found = json.loads(cli(*argv, "-o", "json", objects=objects("O02")).out)["rows"]
    assert {row["from"].split("/")[0] for row in found} == shown
    table = cli(*argv, objects=objects("O02")).out.splitlines()[1:]
    listed = {name.split("/")[0] for line in table for name in line.split("  ")[0].split(", ")}
    assert listed == shown


def test_unknown_kinds_are_counted_and_warnings_shown(cli: Cli) -> None:
    given = objects("O07", {"apiVersion": "x/v1", "kind": "Thing", "metadata": {"name": "t"}})
    done = cli(objects=given)
    assert "not looked at: Thing 1" in done.out
    assert "warning: " in done.out
    found = json.loads(cli("-o", "json", objects=given).out)
    assert found["ignored"] == {"Thing": 1}
    assert {"code", "subject", "text"} == set(found["warnings"][0])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals(
    no_color: str, *, coloured: bool, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    text, terminal = yaml.safe_dump_all(objects("O01")).encode(), Terminal()
    assert command.main(["-f", "-"], io.BytesIO(text), terminal) == 0
    assert ("\x1b[" in terminal.getvalue()) is coloured
    assert "\x1b[" not in cli(objects=objects("O01")).out


# --- the gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["table", "json", "junit"])
@pytest.mark.parametrize(
    ("case", "argv", "code"),
    [
        ("O01", ("--require", "ISTIO_MUTUAL"), 1),
        ("O01", ("--require", "ISTIO_MUTUAL", "--from", "cli/*"), 0),
        ("O01", ("--require", "istio_mutual,PLAINTEXT"), 0),
        ("O01", ("--require", "ISTIO_MUTUAL", "--except", "out/*:*"), 0),
        ("O01", ("--require", "ISTIO_MUTUAL", "--except", "n:web.srv:80"), 0),
        ("O01", ("--require", "ISTIO_MUTUAL", "--except", "n.out:srv/web"), 0),
        ("O01", ("--require", "ISTIO_MUTUAL", "--except", "out/n:*.svc.cluster.local:*"), 0),
        ("O01", ("--require", "ISTIO_MUTUAL", "--except", "out/*:*:81"), 1),
        ("O01", ("--require", "ISTIO_MUTUAL", "--except", "cli/*:*"), 1),
        ("O22", ("--require", "ISTIO_MUTUAL", "--except", "*:host:*"), 0),
        ("O22", ("--require", "ISTIO_MUTUAL", "--except", "*:host:api*:80"), 1),
        ("O25", ("--require", "ISTIO_MUTUAL", "--from", "cli/*"), 0),
        ("O25", ("--require", "HBONE", "--from", "cli/*"), 0),
        ("O01", ("--require", "HBONE", "--from", "cli/*"), 1),
        ("O01", ("--require", "ISTIO_MUTUAL", "c.cli", "web.srv"), 0),
        ("O01", ("--require", "ISTIO_MUTUAL", "n.out", "web.srv"), 1),
        ("O15", ("--require", "ISTIO_MUTUAL", "c.cli", "m.mig"), 1),
        ("O15", ("--require", "ISTIO_MUTUAL", "--except", "*:mig/m-vlegacy", "c.cli", "m.mig"), 0),
        ("O15", ("--require", "ISTIO_MUTUAL", "--except", "*:*legacy", "--from", "cli/*"), 0),
        ("O02", (), 0),
    ],
)
def test_require_makes_the_exit_code(
    case: str, argv: tuple[str, ...], code: int, output: str, cli: Cli
) -> None:
    mesh = ["--ambient"] if BY_ID[case]["mesh"].get("ambient") else []
    done = cli(*argv, *mesh, "-o", output, objects=objects(case))
    assert done.code == code
    assert ("tlscheck: not" in done.err) is (code == 1)


def empty(name: str, mode: str = "") -> list[Json]:
    """A service that selects nothing; with a mode, a DestinationRule for it."""
    meta = {"name": name, "namespace": "srv"}
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}
    rule = {"host": f"{name}.srv.svc.cluster.local", "trafficPolicy": {"tls": {"mode": mode}}}
    of_rule = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule"}
    made: list[Json] = [{"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}]
    return [*made, *([{**of_rule, "metadata": meta, "spec": rule}] if mode else [])]


@pytest.mark.parametrize("output", ["table", "json", "junit"])
def test_a_service_without_endpoints_neither_satisfies_nor_breaks_the_gate(
    output: str, cli: Cli
) -> None:
    nobody = [*empty("idle"), *empty("spare", "ISTIO_MUTUAL")]
    gate = ("--require", "ISTIO_MUTUAL", "--from", "cli/*", "-o", output)
    done = cli(*gate, objects=objects("O01", *nobody))
    assert done.code == 0
    assert done.err == "tlscheck: not judged, without endpoints: idle.srv, spare.srv\n"
    assert cli(*gate, "--to", "web.*", objects=objects("O01", *nobody)).err == ""
    alone = cli(*gate, "--to", "spare.*", objects=objects("O01", *nobody))
    assert alone.code == 2
    assert "no connection was found" in alone.err


def test_a_host_outside_the_mesh_is_judged_though_no_endpoint_is_known(cli: Cli) -> None:
    done = cli("--require", "ISTIO_MUTUAL", objects=objects("O22"))
    assert done.code == 1
    assert "not judged" not in done.err


# --- a change -------------------------------------------------------------------------------------


def policy(mode: str, where: str = "istio-system") -> Json:
    meta = {"name": "default", "namespace": where, "creationTimestamp": "2020-01-01T00:00:00Z"}
    kind = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication"}
    return {**kind, "metadata": meta, "spec": {"mtls": {"mode": mode}}}


OLD = pod("job-5d9c-a", "old", sidecar=False, owner="job")


def few(*more: Json) -> list[Json]:
    """A service with one endpoint, a client in the mesh, and more."""
    spec = {"selector": {"app": "w"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    service = {"kind": "Service", "metadata": {"name": "web", "namespace": "srv"}, "spec": spec}
    return [service, pod("w", "srv"), pod("c", "cli"), *more]


def saved(folder: Path, *given: Json) -> str:
    (folder / "before.yaml").write_text(yaml.safe_dump_all(given))
    return str(folder / "before.yaml")


def test_what_became_worse_is_shown_and_makes_the_exit_code(tmp_path: Path, cli: Cli) -> None:
    before = saved(tmp_path, *few(OLD))
    after = few(OLD, policy("STRICT"))

    done = cli("--before", before, objects=after)

    heads, line = done.out.splitlines()
    assert heads.split() == list(changes.COLUMNS)
    assert line.split()[:7] == ["old/job", "web.srv", ">", "w", "80", "-", "PLAINTEXT"]
    assert "CONFLICT ❌  plaintext meets STRICT" in line
    assert done.code == 1
    assert done.err == (
        "tlscheck: worse than before: old/job -> web.srv:80 goes from PLAINTEXT to CONFLICT\n"
    )
    assert cli("--before", before, "--except", "old/job:web.srv", objects=after).code == 0
    assert cli("--before", before, "--to", "other.*", objects=after).code == 0


def test_what_became_better_is_shown_and_is_no_failure(tmp_path: Path, cli: Cli) -> None:
    before = saved(tmp_path, *few(OLD, policy("STRICT")))

    done = cli("--before", before, "-o", "json", objects=few(OLD))

    assert (done.code, done.err) == (0, "")
    [edge] = json.loads(done.out)["edges"]
    assert edge == {
        "from": "old/job",
        "to": "srv/w",
        "host": "web.srv.svc.cluster.local",
        "port": 80,
        "before": "CONFLICT",
        "after": "PLAINTEXT",
        "worse": False,
        "better": True,
        "why": "the client has no proxy",
    }


def test_no_difference_is_said(tmp_path: Path, cli: Cli) -> None:
    done = cli("--before", saved(tmp_path, *few()), objects=few())
    assert (done.code, done.out) == (0, "no edge has another answer than before\n")


def test_standard_input_is_one_of_before_and_after(cli: Cli) -> None:
    done = cli("--before", "-", objects=few())
    assert done.code == 2
    assert "standard input can be read once" in done.err


@pytest.mark.parametrize("asked", [(), ("srv",), ("istio-system",)])
@pytest.mark.parametrize("now", [(), ("PERMISSIVE",), ("DISABLE",)])
def test_who_strict_would_cut_off_is_shown_with_what_to_do(
    asked: tuple[str, ...], now: tuple[str, ...], cli: Cli
) -> None:
    given = few(OLD, *(policy(mode, *asked) for mode in now))

    done = cli("--if-strict", *asked, objects=given)

    assert done.code == 1
    assert "old/job" in done.out.splitlines()[1]
    assert done.out.splitlines()[-1] == (
        "change: kubectl label namespace old istio-injection=enabled && "
        "kubectl -n old rollout restart deployment/job"
    )
    place = asked[0] if asked else "istio-system"
    assert f"tlscheck: cut off by STRICT in {place}: old/job -> web.srv:80" in done.err
    named = cli("--if-strict", *asked, "--except", "job.old:*:80", objects=given)
    assert (named.code, named.out, named.err) == (0, f"STRICT in {place} cuts nobody off\n", "")


def test_a_policy_that_stands_nearer_is_not_replaced(cli: Cli) -> None:
    given = few(OLD, policy("PERMISSIVE", "srv"))

    assert cli("--if-strict", objects=given).code == 0
    assert cli("--if-strict", "srv", objects=given).code == 1
    exception = policy("PERMISSIVE", "srv")
    exception["metadata"]["name"] = "w"
    exception["spec"]["selector"] = {"matchLabels": {"app": "w"}}
    assert cli("--if-strict", "srv", objects=few(OLD, exception)).code == 0


def test_strict_cuts_nobody_off_where_it_is_already(cli: Cli) -> None:
    assert cli("--if-strict", objects=few(OLD, policy("STRICT"))).code == 0


def test_clients_that_do_not_count_are_named(cli: Cli) -> None:
    agents = [
        pod("agent", "kube-system", sidecar=False),
        pod("watch", "istio-system", sidecar=False),
    ]

    done = cli("--if-strict", objects=few(*agents))

    assert done.code == 0
    assert "NOT_COUNTED clients: istio-system/watch, kube-system/agent: left out" in done.out


def test_a_namespace_that_is_not_there_is_suggested(cli: Cli) -> None:
    done = cli("--if-strict", "srw", objects=few())
    assert done.code == 2
    assert "no namespace srw among the objects; did you mean srv?" in done.err


def test_junit_has_a_test_case_per_connection_and_fails_as_the_gate_does(cli: Cli) -> None:
    for argv, failures in (((), 2), (("--require", "ISTIO_MUTUAL"), 5)):
        found = ET.fromstring(cli(*argv, "-o", "junit", objects=objects("O02")).out)  # noqa: S314
        assert (found.get("tests"), found.get("failures")) == ("6", str(failures))
        assert len(found.findall(".//testcase")) == 6
        assert len(found.findall(".//failure")) == failures


def test_names_cannot_break_the_output(cli: Cli) -> None:
    given = objects("O01", pod('x\x1b[31m<&"]]>\ud800', "cli"))
    text = json.dumps({"kind": "List", "items": given}).encode()
    ET.fromstring(cli("-o", "junit", stdin=text).out)  # noqa: S314
    assert "\x1b" not in cli(stdin=text).out
    assert json.loads(cli("-o", "json", stdin=text).out)["rows"]


# --- sources --------------------------------------------------------------------------------------


def token(item: Json) -> str:
    api = item["apiVersion"]
    return f"kubernetes:{api if '/' in api else 'core/' + api}:{item['kind']}"


def test_a_stack_state_is_judged(tmp_path: Path, cli: Cli) -> None:
    resources = [{"type": token(item), "inputs": item} for item in objects("O02")]
    (tmp_path / "s.json").write_text(json.dumps({"deployment": {"resources": resources}}))
    done = cli("--stack-state", str(tmp_path / "s.json"), "c.cli", "web.srv")
    assert done.last == "TLS Mode: ISTIO_MUTUAL ✅"


def test_a_change_is_judged_before_it_is_applied(tmp_path: Path, cli: Cli) -> None:
    steps = [
        {"op": "same", "urn": str(at), "newState": {"type": token(item), "inputs": item}}
        for at, item in enumerate(objects("O01"))
    ]
    policy = BY_ID["O02"]["objects"][0]
    state = {"type": token(policy), "inputs": policy}
    for op, verdict in (("create", "CONFLICT ❌"), ("delete", "PLAINTEXT ❌")):
        side = {"newState": state} if op == "create" else {"oldState": state}
        step = {"op": op, "urn": "policy", **side}
        (tmp_path / "p.json").write_text(json.dumps({"steps": [*steps, step]}))
        done = cli("--preview", str(tmp_path / "p.json"), "n.out", "web.srv")
        assert done.last == f"TLS Mode: {verdict}"


def test_the_cluster_is_asked_when_nothing_else_is_given(
    monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    calls: list[list[str]] = []

    def run(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        calls.append([*argv])
        items = [] if "configmaps" in argv else objects("O02")
        answer = json.dumps({"kind": "List", "items": items}).encode()
        return subprocess.CompletedProcess([], 0, answer, b"")

    monkeypatch.setattr(sources, "_run", run)
    done = cli("--context", "dev", "--kubeconfig", "k", "c.cli", "web.srv")
    assert done.last == "TLS Mode: ISTIO_MUTUAL ✅"
    assert calls[0][:5] == ["kubectl", "--context", "dev", "--kubeconfig", "k"]


def test_mesh_settings_are_those_of_the_file_else_of_the_config_map(
    tmp_path: Path, cli: Cli
) -> None:
    mesh: Json = {"apiVersion": "v1", "kind": "ConfigMap"}
    mesh |= {"metadata": {"name": "istio", "namespace": "istio-system"}}
    mesh |= {"data": {"mesh": "enableAutoMtls: false"}}
    given = objects("O01", mesh)
    assert cli("c.cli", "web.srv", objects=given).last == "TLS Mode: PLAINTEXT ❌"
    (tmp_path / "mesh.yaml").write_text("enableAutoMtls: true")
    argv = ("--mesh-config", str(tmp_path / "mesh.yaml"), "c.cli", "web.srv")
    assert cli(*argv, objects=given).last == "TLS Mode: ISTIO_MUTUAL ✅"
    (tmp_path / "mesh.yaml").write_text("- a list")
    assert "not a MeshConfig" in cli(*argv, objects=given).err


def test_text_on_standard_input_is_taken_too() -> None:
    out = io.StringIO()
    text = io.StringIO(yaml.safe_dump_all(objects("O01")))
    assert command.main(["-f", "-"], text, out) == 0
    assert "web.srv" in out.getvalue()


# --- garbage --------------------------------------------------------------------------------------

META = {"name": "x", "namespace": "n"}
KINDS = ("Pod", "Service", "PeerAuthentication", "DestinationRule", "ServiceEntry", "Sidecar")
ODD: tuple[Any, ...] = (None, 7, "x", [], {}, [None], [[]], {"a": {"b": []}}, 10**30, 1e400, True)
GARBAGE: list[bytes] = [
    b"\x00\x01\x02",
    b"\xff\xfe\x00",
    b"\x89PNG\r\n\x1a\n\x00\x00",
    bytes(range(256)) * 10,
    b"a: [",
    b"a: b: c",
    b"\t",
    b"---\n---\n...\n",
    b"just text",
    b"- - - -",
    b"a: &a [*a]",
    b"a: *missing",
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b"- " * 5_000 + b"x",
    b'{"a": ' + b"9" * 5_000 + b"}",
    b"kind: Pod\nmetadata: " + b"9" * 5_000,
    b"kind: List\nitems: {}",
    b"kind: List\nitems: [1, null, x, [], {}]",
    b"kind: [Pod]\nmetadata: {name: x}",
    b"kind: {a: b}",
    b"{{ template }}",
    b"? {a: b}\n: c",
    b"!!python/object/apply:os.system [id]",
    b"apiVersion: v1\nkind: Pod",
    b"kind: Service\nmetadata: {name: x}\nspec: {ports: [{port: .inf}, {port: 1e999}]}",
    "kind: Pod\nmetadata: {name: \ud800}".encode("utf-8", "surrogatepass"),
    b'{"kind": "Pod", "metadata": {"name": "\\ud800"}}',
    b"kind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: [1]}",
    b"kind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: 'a: ['}",
    *(json.dumps({"kind": k, "metadata": META, "spec": v}).encode() for k in KINDS for v in ODD),
    *(json.dumps({"kind": k, "metadata": v, "spec": {}}).encode() for k in KINDS for v in ODD),
]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: repr(text[:40]))
@pytest.mark.parametrize("argv", [("-o", "json"), (), ("-o", "junit"), ("x.n", "x.n")])
def test_no_input_gives_a_traceback(text: bytes, argv: tuple[str, ...], cli: Cli) -> None:
    done = cli(*argv, stdin=text)
    assert done.code in (0, 2)
    assert "defect" not in done.err
    assert done.err.count("\n") == (done.code == 2)


def test_a_defect_is_one_line(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    def fail(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(command, "check", fail)
    done = cli()
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "a defect of tlscheck" in done.err


# --- the process ----------------------------------------------------------------------------------


def process(
    *argv: str, stdin: bytes, flags: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[bytes]:
    command_line = [sys.executable, *flags, "-m", "tlscheck", *argv]
    env = os.environ | environment
    return subprocess.run(
        command_line, cwd=ROOT, input=stdin, capture_output=True, env=env, check=False, timeout=60
    )


def test_the_process_has_the_exit_code() -> None:
    text = json.dumps({"kind": "List", "items": objects("O01")}).encode()
    for argv, code in ((("-f", "-"), 0), (("-f", "-", "--require", "HBONE"), 1), (("-f", ""), 2)):
        done = process(*argv, stdin=text)
        assert done.returncode == code
        # an empty path is a variable that was not set, and not the folder one is in
        assert (b"-f: the path is empty" in done.stderr) == (argv == ("-f", ""))


def test_help_is_no_error() -> None:
    done = process("--help", stdin=b"")
    assert done.returncode == 0
    assert b"HBONE counts" in done.stdout


def test_a_terminal_without_unicode_gets_an_answer() -> None:
    text = json.dumps({"kind": "List", "items": objects("O01")}).encode()
    done = process("-f", "-", "c.cli", "web.srv", stdin=text, PYTHONIOENCODING="ascii")
    assert done.stdout.splitlines()[-1] == b"TLS Mode: ISTIO_MUTUAL \\u2705"


def test_a_reader_that_leaves_is_no_error() -> None:
    text = json.dumps({"kind": "List", "items": objects("O02")}).encode()
    line = f"{sys.executable} -m tlscheck -f - -o json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, input=text, capture_output=True, check=False, timeout=60
    )
    assert done.stderr == b""
    assert done.stdout.strip() in (b"0", b"141")


def test_json_needs_no_yaml_and_nothing_of_pulumi_is_loaded() -> None:
    text = json.dumps({"kind": "List", "items": objects("O01")}).encode()
    done = process("-f", "-", stdin=text, flags=["-X", "importtime"])
    loaded = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {b"yaml", b"pulumi", b"kubernetes", b"difflib", b"tlscheck.stack"}
