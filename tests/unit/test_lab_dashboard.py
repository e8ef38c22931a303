"""What `make kiali` and its like say and do, with a kubectl that is a script of the test."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from components import observability
from components.observability import grafana, kiali
from components.observability.workload import url as in_cluster
from lab import dashboard, summary
from lab.cluster import SIMULATED
from lab.dashboard import Part, Target, show, until_interrupted
from lab.lifecycle import LabError
from lab.paths import ROOT, LabPaths
from lab.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "Correct0Horse1Battery2Staple3"  # noqa: S105 of a test
TOKEN = "eyJhbGciOiJSUzI1NiJ9.a-token"  # noqa: S105 same

KUBECTL = """\
import json, os, pathlib, signal, socket, sys
here = pathlib.Path(__file__).parent
world = json.loads((here / "world.json").read_text())
context, where, words = sys.argv[1:3], sys.argv[3:5], sys.argv[5:]
assert context == ["--context", "mine"] and where == ["-n", "istio-system"], sys.argv
if words[0] != "port-forward":
    said = world["says"].get(" ".join(words))
    sys.exit(print(said) if said else "Error from server (Forbidden): " + " ".join(words))
(here / "forward.json").write_text(json.dumps({"pid": os.getpid(), "words": words}))
if world["refuses"]:
    sys.exit("error: unable to forward port because pod is not running")
port = int(words[-1].split(":")[0])

def forgotten(*_):
    (here / "forgotten").touch()
    sys.exit("nobody stopped this")

signal.signal(signal.SIGALRM, forgotten)
signal.alarm(10)
server = socket.create_server(("127.0.0.1", port))
print(f"Forwarding from 127.0.0.1:{port} -> 3000", flush=True)
client, _ = server.accept()
(here / "asked").write_text(client.recv(4096).split()[1].decode())
client.sendall(b"HTTP/1.0 %d Said\\r\\n\\r\\nthe page's own words" % world["status"])
client.close()
server.close()
print(f"Handling connection for {port}", flush=True)
if world["signal"]:
    os.kill(os.getppid(), world["signal"])
    signal.pause()
sys.exit("error: lost connection to pod")
"""

PULUMI = """\
import json, pathlib, sys
if sys.argv[1] == "config":
    print((pathlib.Path(__file__).parent / "config.json").read_text())
"""

OUTPUTS = {
    "mtls": {"istio-system": "STRICT"},
    "observability": {
        "grafana": "http://grafana.istio-system.svc.cluster.local:3000",
        "jaeger": "http://tracing.istio-system.svc.cluster.local",
        "kiali": "http://kiali.istio-system.svc.cluster.local:20001/kiali",
        "prometheus": "http://prometheus.istio-system.svc.cluster.local:9090",
    },
}
SERVICES = {"grafana": "grafana", "jaeger": "tracing", "kiali": "kiali", "prometheus": "prometheus"}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _pod(
    *, ready: bool = False, simulated: bool = False, deleted: bool = False, **status: Any
) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    meta: dict[str, Any] = {"name": "the-pod"}
    if simulated:
        meta["annotations"] = {SIMULATED: "no process"}
    if deleted:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions += status.pop("conditions", [])
    claim = {"persistentVolumeClaim": {"claimName": "the-claim"}}
    spec = {"volumes": [{"name": "data", **claim}, {"name": "tmp", "emptyDir": {}}]}
    return {"metadata": meta, "spec": spec, "status": {"conditions": conditions, **status}}


def _event(about: str, reason: str, message: str, **more: str) -> dict[str, Any]:
    event = {"involvedObject": {"name": about}, "type": "Warning", "reason": reason}
    return {**event, "message": message, "lastTimestamp": "2026-01-01T00:00:00Z", **more}


class Cluster:
    """What the fake kubectl knows and did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.says: dict[str, str] = {
            "get secret grafana -o json": json.dumps(
                {"data": {grafana.PASSWORD_KEY: _encoded(PASSWORD)}}
            ),
            "create token kiali": TOKEN,
        }
        self.status, self.signal, self.refuses = 200, int(signal.SIGINT), False
        self.auth("token")
        self.pods(_pod(ready=True))
        self.events()
        for name, text in (("kubectl", KUBECTL), ("pulumi", PULUMI)):
            (folder / name).write_text(f"#!{sys.executable} -IS\n{text}")
            (folder / name).chmod(0o755)
        self.settings()

    def settings(self, *parts: str) -> None:
        """The stack's setting `observability`; without parts there is none."""
        named = {"service-mesh:observability": {"objectValue": parts}} if parts else {}
        (self.folder / "config.json").write_text(json.dumps(named))

    def pods(self, *pods: dict[str, Any]) -> None:
        for part, service in SERVICES.items():
            spec = {"selector": {"app": part}, "clusterIP": "127.0.0.1"}
            self.says[f"get service {service} -o json"] = json.dumps({"spec": spec})
            self.says[f"get pods -l app={part} -o json"] = json.dumps({"items": pods})

    def events(self, *events: dict[str, Any]) -> None:
        self.says["get events -o json"] = json.dumps({"items": events})

    def auth(self, strategy: str) -> None:
        config = yaml.safe_dump({"auth": {"strategy": strategy}})
        self.says["get configmap kiali -o json"] = json.dumps({"data": {"config.yaml": config}})

    def stack(self, *, lab: bool = False) -> Stack:
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        config = self.folder / "Pulumi.prod.yaml" if lab else None
        return Stack(name="prod", variables={"PATH": path}, config=config)

    def show(
        self, part: str, outputs: Any = OUTPUTS, *, port: int | None = None, lab: bool = False
    ) -> None:
        """As the command does."""
        world = {"says": self.says, "status": self.status, "signal": self.signal}
        text = json.dumps({**world, "refuses": self.refuses})
        (self.folder / "world.json").write_text(text)
        with until_interrupted():
            show(Part(part), self.stack(lab=lab), outputs, LabPaths(), port)

    @property
    def forward(self) -> dict[str, Any]:
        """The process that forwarded, and its words."""
        found: dict[str, Any] = json.loads((self.folder / "forward.json").read_text())
        return found

    @property
    def asked(self) -> str:
        """The path of the request that came through."""
        return (self.folder / "asked").read_text()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(Stack, "cluster", lambda _: ["--context", "mine"])
    monkeypatch.setattr(dashboard, "_at_a_terminal", lambda: False)
    # ports of their own: the usual ones may be somebody's
    monkeypatch.setattr(Part, "port", property(lambda _: _free()))
    return Cluster(tmp_path)


@pytest.fixture
def terminal(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(dashboard, "_at_a_terminal", lambda: True)
    monkeypatch.setattr(dashboard, "_somebody_looks", lambda: False)
    return cluster


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser was opened with."""
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", found.append)
    return found


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


Said = pytest.CaptureFixture[str]


# --- the forward ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "service", "path"),
    [
        ("kiali", "kiali:20001", "/kiali"),
        ("grafana", "grafana:3000", "/"),
        ("jaeger", "tracing:80", "/"),
        ("prometheus", "prometheus:9090", "/"),
    ],
)
def test_a_loopback_port_leads_to_the_page(
    cluster: Cluster, capsys: Said, part: str, service: str, path: str
) -> None:
    port = _free()
    name, number = service.split(":")
    cluster.show(part, port=port)
    assert cluster.forward["words"] == [
        *("port-forward", "--address", "127.0.0.1", f"service/{name}", f"{port}:{number}")
    ]
    assert cluster.asked == path
    said = capsys.readouterr()
    assert f"{part.title()}: http://127.0.0.1:{port}{path}\n" in said.out
    assert said.err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_end_from_outside_is_no_error_and_takes_kubectl_along(
    cluster: Cluster, number: signal.Signals
) -> None:
    cluster.signal = int(number)
    before = signal.getsignal(number)
    cluster.show("grafana")
    assert _gone(cluster.forward["pid"])
    assert signal.getsignal(number) == before


def test_a_connection_that_ends_by_itself_is_an_error(cluster: Cluster, capsys: Said) -> None:
    cluster.signal = 0
    with pytest.raises(LabError, match=r"ended:\nerror: lost connection to pod$"):
        cluster.show("grafana")
    assert _gone(cluster.forward["pid"])
    assert "Grafana: http://" in capsys.readouterr().out


def test_an_error_on_the_way_takes_kubectl_along(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(dashboard, "_announce", broken)
    with pytest.raises(BrokenPipeError):
        cluster.show("grafana")
    assert _gone(cluster.forward["pid"])
    assert not (cluster.folder / "forgotten").exists()


def test_no_address_is_told_before_the_port_is_open(cluster: Cluster, capsys: Said) -> None:
    cluster.refuses = True
    with pytest.raises(LabError, match=r"ended:\nerror: unable to forward port"):
        cluster.show("grafana")
    assert capsys.readouterr().out == ""


def test_a_usual_port_that_is_taken_is_replaced(
    cluster: Cluster, capsys: Said, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    monkeypatch.setattr(Part, "port", property(lambda _: taken))
    cluster.show("grafana")
    said = capsys.readouterr().out
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", said)
    assert int(port) != taken
    assert f"port {taken} is taken, {port} is used" in said
    assert cluster.forward["words"][-1] == f"{port}:3000"


def test_a_chosen_port_that_is_taken_is_refused(cluster: Cluster, taken: int) -> None:
    with pytest.raises(LabError, match=rf"port {taken}: .*in use\n  fix: leave --port out"):
        cluster.show("grafana", port=taken)


@pytest.mark.parametrize("port", [70000, -1])
def test_a_port_that_is_none_is_refused(cluster: Cluster, port: int) -> None:
    with pytest.raises(LabError, match=f"port {port}: .*0-65535"):
        cluster.show("grafana", port=port)


def test_without_kubectl_there_is_one_sentence(cluster: Cluster) -> None:
    stack = Stack(name="prod", variables={"PATH": str(cluster.folder / "none")}, config=None)
    with pytest.raises(LabError, match="kubectl is not on PATH"):
        show(Part.GRAFANA, stack, OUTPUTS, LabPaths())


# --- the page ------------------------------------------------------------------------------------


def test_a_page_that_is_an_error_is_told_and_not_opened(
    cluster: Cluster, capsys: Said, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(dashboard, "_somebody_looks", lambda: True)
    cluster.status, cluster.signal = 500, 0
    with pytest.raises(LabError, match="ended"):
        cluster.show("prometheus")
    said = capsys.readouterr().out
    assert "there is no page: it answers 500 the page's own words" in said
    assert re.search(r"its API: http://127\.0\.0\.1:\d+/api/v1/query\?query=up", said)
    assert opened == []


def test_a_port_that_nothing_answers_at_is_told(capsys: Said, opened: list[str]) -> None:
    dashboard._announce(Part.KIALI, f"http://127.0.0.1:{_free()}/kiali", "none")
    assert "it does not answer: " in capsys.readouterr().out
    assert opened == []


def test_a_proxy_of_the_surroundings_is_not_asked(
    cluster: Cluster, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{_free()}")
    monkeypatch.delenv("no_proxy", raising=False)
    cluster.show("grafana")
    assert cluster.asked == "/"
    assert "does not answer" not in capsys.readouterr().out


@pytest.mark.parametrize("looks", [True, False])
def test_a_browser_is_opened_where_somebody_looks(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    opened: list[str],
    looks: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(dashboard, "_somebody_looks", lambda: looks)
    cluster.signal = 0
    with pytest.raises(LabError, match="ended"):
        cluster.show("jaeger", port=(port := _free()))
    assert opened == [f"http://127.0.0.1:{port}/"] * looks


@pytest.mark.parametrize(
    ("terminal", "display", "platform", "looks"),
    [
        (True, ":0", "linux", True),
        (True, "", "darwin", True),
        (True, "", "linux", False),
        (False, ":0", "linux", False),
        (False, "", "darwin", False),
    ],
)
def test_somebody_looks_at_a_terminal_with_a_display(
    monkeypatch: pytest.MonkeyPatch,
    *,
    terminal: bool,
    display: str,
    platform: str,
    looks: bool,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert dashboard._somebody_looks() is looks


# --- the login -----------------------------------------------------------------------------------


def test_a_person_is_told_the_password(terminal: Cluster, capsys: Said) -> None:
    terminal.show("grafana")
    assert f"login: user admin, password {PASSWORD}\n" in capsys.readouterr().out


def test_a_person_gets_a_token_for_kiali(terminal: Cluster, capsys: Said) -> None:
    terminal.show("kiali")
    assert f"login: token {TOKEN}\n" in capsys.readouterr().out


GRAFANA_COMMAND = (
    "from: kubectl --context mine -n istio-system get secret grafana -o "
    """'go-template={{index .data "admin-password" | base64decode}}'\n"""
)
KIALI_COMMAND = "from: kubectl --context mine -n istio-system create token kiali\n"


@pytest.mark.parametrize(
    ("part", "command"), [("grafana", GRAFANA_COMMAND), ("kiali", KIALI_COMMAND)]
)
def test_a_pipe_gets_the_command_and_no_secret(
    cluster: Cluster, capsys: Said, part: str, command: str
) -> None:
    cluster.show(part)
    said = capsys.readouterr().out
    assert command in said
    for secret in (PASSWORD, _encoded(PASSWORD), TOKEN):
        assert secret not in said


@pytest.mark.parametrize(
    ("part", "asks", "command"),
    [
        ("grafana", "get secret grafana -o json", GRAFANA_COMMAND),
        ("kiali", "create token kiali", KIALI_COMMAND),
    ],
)
def test_who_may_not_read_the_secret_gets_the_command(
    terminal: Cluster, capsys: Said, part: str, asks: str, command: str
) -> None:
    del terminal.says[asks]
    terminal.show(part)
    assert command in capsys.readouterr().out


def test_an_anonymous_kiali_says_what_that_means(terminal: Cluster, capsys: Said) -> None:
    terminal.auth("anonymous")
    terminal.show("kiali")
    said = capsys.readouterr().out
    assert "login: none: whoever reaches this port" in said
    assert TOKEN not in said


@pytest.mark.parametrize("part", ["jaeger", "prometheus"])
def test_where_nobody_logs_in_that_is_said(terminal: Cluster, capsys: Said, part: str) -> None:
    terminal.show(part)
    assert "login: none\n" in capsys.readouterr().out


# --- the pods ------------------------------------------------------------------------------------


def _state(kind: str, **facts: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "x", "state": {kind: facts}}]}


DESCRIBE = "describe pod the-pod"
LOGS = "logs the-pod --all-containers"
UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims"


@pytest.mark.parametrize(
    ("pod", "why", "look"),
    [
        (
            _pod(phase="Pending", **_state("waiting", reason="ImagePullBackOff", message="no\nx")),
            "pod the-pod: ImagePullBackOff: no x",
            DESCRIBE,
        ),
        (
            _pod(phase="Running", **_state("waiting", reason="CrashLoopBackOff")),
            "pod the-pod: CrashLoopBackOff",
            LOGS,
        ),
        (
            _pod(phase="Running", **_state("terminated", reason="OOMKilled", exitCode=137)),
            "pod the-pod: OOMKilled (exit code 137)",
            LOGS,
        ),
        (
            _pod(
                phase="Pending",
                initContainerStatuses=[{"state": {"terminated": {"exitCode": 0}}}],
                **_state("waiting", reason="PodInitializing"),
            ),
            "pod the-pod: PodInitializing",
            DESCRIBE,
        ),
        (
            _pod(
                phase="Pending",
                conditions=[
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": UNBOUND,
                    }
                ],
            ),
            f"pod the-pod: Unschedulable: {UNBOUND}",
            DESCRIBE,
        ),
        (
            _pod(phase="Running", **_state("running")),
            "pod the-pod: it runs, and its readiness probe has not succeeded",
            LOGS,
        ),
        (_pod(phase="Failed", reason="Evicted"), "pod the-pod: Evicted", DESCRIBE),
        (_pod(phase="Pending"), "pod the-pod: Pending", DESCRIBE),
        (_pod(), "pod the-pod: no reason given", DESCRIBE),
    ],
)
def test_a_pod_that_is_not_ready_says_why_and_what_to_type(
    cluster: Cluster, pod: dict[str, Any], why: str, look: str
) -> None:
    cluster.pods(pod)
    with pytest.raises(LabError) as error:
        cluster.show("grafana")
    assert str(error.value).splitlines() == [
        "Grafana is not ready",
        f"  {why}",
        f"  look: kubectl --context mine -n istio-system {look}",
        "  then: make grafana STACK=prod",
    ]


def test_its_last_events_and_its_volumes_are_told(cluster: Cluster) -> None:
    cluster.pods(_pod(phase="Pending"))
    cluster.events(
        _event("the-pod", "FailedScheduling", UNBOUND, lastTimestamp="2026-01-01T00:00:03Z"),
        _event("the-claim", "FailedBinding", "no storage class is set", type="Normal"),
        _event("the-pod", "FailedScheduling", UNBOUND, lastTimestamp="", eventTime="2026-01-02T0"),
        _event("the-pod", "Pulling", "pulls", type="Normal"),
        _event("another-pod", "Failed", "of another"),
    )
    with pytest.raises(LabError) as error:
        cluster.show("prometheus")
    events = [line for line in str(error.value).splitlines() if "event:" in line]
    assert events == [
        "  event: FailedBinding: no storage class is set",
        f"  event: FailedScheduling: {UNBOUND}",
    ]


def test_an_event_does_not_repeat_what_the_pod_says(cluster: Cluster) -> None:
    cluster.pods(_pod(**_state("waiting", reason="ErrImagePull", message="not found")))
    cluster.events(_event("the-pod", "Failed", "not found"))
    with pytest.raises(LabError, match="ErrImagePull: not found") as error:
        cluster.show("grafana")
    assert "event" not in str(error.value)


def test_where_there_is_no_pod_who_should_make_it_is_heard(cluster: Cluster) -> None:
    cluster.pods(_pod(ready=True, deleted=True))
    cluster.events(
        _event("jaeger-7d8f", "FailedCreate", "violates PodSecurity"),
        _event("jaegers-7d8f", "FailedCreate", "of another"),
    )
    with pytest.raises(LabError) as error:
        cluster.show("jaeger")
    assert str(error.value).splitlines() == [
        "Jaeger is not ready",
        "  there is no pod with app=jaeger",
        "  event: FailedCreate: violates PodSecurity",
        "  look: kubectl --context mine -n istio-system "
        "describe deployment,replicaset -l app=jaeger",
        "  then: make jaeger STACK=prod",
    ]


def test_one_ready_pod_is_enough(cluster: Cluster, capsys: Said) -> None:
    cluster.pods(_pod(phase="Failed", reason="Evicted"), _pod(ready=True))
    cluster.show("grafana")
    assert "Grafana: http://" in capsys.readouterr().out


def test_a_simulated_pod_has_no_page(cluster: Cluster) -> None:
    cluster.pods(_pod(ready=True, simulated=True))
    with pytest.raises(LabError, match=r"Kiali is simulated on the lab: .*there is no page\n"):
        cluster.show("kiali", lab=True)


def test_a_service_that_is_gone_is_kubectls_own_error(cluster: Cluster) -> None:
    del cluster.says["get service grafana -o json"]
    with pytest.raises(LabError, match=r"Error from server .*get service grafana"):
        cluster.show("grafana")


# --- the stack -----------------------------------------------------------------------------------


def _but(part: str) -> dict[str, Any]:
    urls = {name: url for name, url in OUTPUTS["observability"].items() if name != part}
    return {**OUTPUTS, "observability": urls}


def test_a_stack_without_the_part_says_how_to_add_it(cluster: Cluster) -> None:
    cluster.settings("prometheus", "grafana")
    with pytest.raises(LabError) as error:
        cluster.show("kiali", _but("kiali"))
    assert str(error.value).splitlines() == [
        "Kiali is not in the stack prod: its setting observability has no kiali",
        "  fix: pulumi config set --stack prod --path 'observability[2]' kiali"
        " && make up STACK=prod",
    ]


def test_what_needs_prometheus_is_added_with_it(cluster: Cluster) -> None:
    with pytest.raises(LabError) as error:
        cluster.show("grafana", {"mtls": {}})
    said = str(error.value)
    assert "has no prometheus and no grafana" in said
    assert "'observability[0]' prometheus && " in said
    assert "'observability[1]' grafana && make up" in said


def test_on_the_lab_the_setting_is_the_labs(cluster: Cluster) -> None:
    cluster.settings("prometheus")
    with pytest.raises(LabError, match=r"-m lab pulumi --stack prod -- config set --path"):
        cluster.show("jaeger", _but("jaeger"), lab=True)


def test_a_part_that_is_set_and_not_deployed_needs_an_update_only(cluster: Cluster) -> None:
    cluster.settings("jaeger")
    with pytest.raises(LabError, match=r"names it, and it is not deployed\n  fix: make up") as e:
        cluster.show("jaeger", _but("jaeger"))
    assert "config set" not in str(e.value)


def test_a_stack_with_nothing_in_it_is_no_cluster_to_ask(cluster: Cluster) -> None:
    with pytest.raises(LabError, match="nothing of the stack prod is deployed\n  fix: make up"):
        cluster.show("kiali", {})


# --- the lab -------------------------------------------------------------------------------------


@pytest.fixture
def inside() -> Iterator[int]:
    """The port of a page that stands for one inside the lab."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode())
            if self.path != "/relayed":
                os.kill(os.getpid(), signal.SIGINT)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_on_the_lab_a_process_of_its_network_carries(
    cluster: Cluster, capsys: Said, monkeypatch: pytest.MonkeyPatch, inside: int
) -> None:
    asked = ["env", "LEAD=1", "--mount", "--pid"]
    monkeypatch.setattr(dashboard, "enter", lambda _: asked)
    url = f"http://prometheus.istio-system.svc.cluster.local:{inside}/graph"
    port = _free()
    outputs = {**OUTPUTS, "observability": {"prometheus": url}}
    cluster.show("prometheus", outputs, lab=True, port=port)
    said = capsys.readouterr().out
    assert f"Prometheus: http://127.0.0.1:{port}/graph\n" in said
    assert "no page" not in said
    assert not (cluster.folder / "forward.json").exists(), "kubectl cannot forward there"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the relay is gone"


def test_on_the_lab_a_refused_connection_is_told(
    cluster: Cluster, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gave_up(part: Part, url: str, login: str) -> None:
        told(part, url, login)
        signal.raise_signal(signal.SIGINT)

    told = dashboard._announce
    monkeypatch.setattr(dashboard, "_announce", gave_up)
    monkeypatch.setattr(dashboard, "enter", lambda _: [])
    url = f"http://prometheus.istio-system.svc.cluster.local:{_free()}"
    cluster.show("prometheus", {**OUTPUTS, "observability": {"prometheus": url}}, lab=True)
    assert "it does not answer: " in capsys.readouterr().out


def test_the_relay_does_not_outlive_whoever_started_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = [sys.executable, "-m", "lab.relay", str(listener.fileno()), "127.0.0.1", "1"]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            words, stdin=pipe, stdout=pipe, cwd=ROOT, pass_fds=[listener.fileno()]
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline().startswith(b"Forwarding from 127.0.0.1:")
            process.stdin.close()
            assert process.wait(10) == 0


# --- names that stand in two places --------------------------------------------------------------


def test_the_parts_are_the_programs() -> None:
    assert {part.value for part in Part} == {part.value for part in observability.Part}
    for part in observability.Part:
        assert (Part.PROMETHEUS in Part(part).needs) == (
            part.needs_prometheus or part is observability.Part.PROMETHEUS
        )


def test_an_address_in_the_cluster_is_read_as_it_is_written() -> None:
    target = Target.parse(in_cluster("tracing", "observed", 80))
    assert (target.service, target.namespace, target.port, target.path) == (
        *("tracing", "observed", 80, "/"),
    )
    target = Target.parse(f"{in_cluster('kiali', 'mesh', 20001)}/kiali")
    assert (target.port, target.path) == (20001, "/kiali")


def test_keys_of_the_cluster_are_the_components_own() -> None:
    assert f'"{grafana.PASSWORD_KEY}"' in GRAFANA_COMMAND
    assert f"user {grafana.ADMIN}," in "login: user admin,"
    assert PurePosixPath(kiali._CONFIG).name == "config.yaml"
    args = kiali.KialiArgs(namespace="x", prometheus_url="http://x")
    assert kiali.config(args)["auth"]["strategy"] == "token"
    assert kiali.KialiAuth.ANONYMOUS.value == "anonymous"


def test_make_and_the_summary_know_every_part() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*\n.*)", makefile, re.MULTILINE)
    for part in Part:
        assert re.search(rf"^{part}: .*## ", makefile, re.MULTILINE)
        assert f" {part} " in phony
    assert summary.DASHBOARDS.keys() == set(Part)
