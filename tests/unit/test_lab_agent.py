"""The node agent: which pods it runs, which it leaves to kwok, and when it lets go of one."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from lab.cluster import SIMULATED
from lab.node import agent as node_agent
from lab.node.agent import NODE, Agent
from lab.node.api import ApiError
from lab.node.images import PROGRAMS, Images
from lab.paths import LabPaths
from lab.sandbox import NODE_ADDRESS, Isolation
from lab.toolchain import Tools
from lab.toolchain.sources import Found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from lab.node.api import Api

PODS = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}"
SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


class FakeApi:
    """Sends what the test sends, and keeps what is sent to it."""

    def __init__(self) -> None:
        self.events: dict[str, asyncio.Queue[tuple[str, dict[str, Any]]]] = {}
        self.merged: list[tuple[str, dict[str, Any]]] = []
        self.requested: list[tuple[str, str, dict[str, Any]]] = []
        self.failures = 0

    def queue(self, path: str) -> asyncio.Queue[tuple[str, dict[str, Any]]]:
        return self.events.setdefault(path, asyncio.Queue())

    async def follow(self, path: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        queue = self.queue(path)
        while True:
            yield await queue.get()
            queue.task_done()

    async def merge(self, path: str, patch: dict[str, Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise ApiError(409, "conflict")
        self.merged.append((path, patch))

    async def request(self, method: str, path: str, body: dict[str, Any]) -> None:
        self.requested.append((method, path, body))


class _Fake:
    """A pod that is over as soon as it is stopped."""

    every: list[_Fake]

    def __init__(
        self, _: Any, pod: dict[str, Any], images: Any, *_more: Any, **options: Any
    ) -> None:
        self.uid = pod["metadata"]["uid"]
        self.name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self.images = images
        self.options = options
        self.stopped: dict[str, Any] | None = None
        self.fails = False
        self.over = False
        self._stopping = asyncio.Event()
        _Fake.every.append(self)

    def stop(self, pod: dict[str, Any]) -> None:
        self.stopped = pod
        self._stopping.set()

    async def run(self) -> None:
        try:
            await self._stopping.wait()
            if self.fails:
                raise RuntimeError("it does not end as it should")
        finally:
            self.over = True


class FakePod(_Fake):
    """One with a network of its own."""


class FakeLoopbackPod(_Fake):
    """One without."""


class Node:
    """An agent that follows the pods of a test."""

    agent: Agent

    def __init__(self, folder: Path, log: pytest.LogCaptureFixture) -> None:
        self.log = log
        self.paths = LabPaths(state=folder)
        self.api = FakeApi()

    @property
    def started(self) -> list[_Fake]:
        return _Fake.every

    async def send(self, kind: str, item: dict[str, Any], path: str = PODS) -> None:
        """Send an event, and wait until the agent has dealt with it."""
        await self.api.queue(path).put((kind, item))
        async with asyncio.timeout(20):
            await self.api.queue(path).join()
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Node:
    node = Node(tmp_path, caplog)
    monkeypatch.setattr(_Fake, "every", [], raising=False)
    monkeypatch.setattr(node_agent, "Pod", FakePod)
    monkeypatch.setattr(node_agent, "LoopbackPod", FakeLoopbackPod)
    monkeypatch.setattr(node_agent, "_RETRY_S", 0)
    return node


def following(
    isolation: Isolation = Isolation.ROOT,
) -> Callable[[Callable[[Node], Coroutine[Any, Any, None]]], Callable[[Node], None]]:
    """Run a test beside an agent that follows pods."""

    async def scenario(test: Callable[[Node], Coroutine[Any, Any, None]], node: Node) -> None:
        node.agent = Agent(cast("Api", node.api), node.paths, _images(), isolation)
        task = asyncio.create_task(node.agent._follow_pods())
        try:
            await test(node)
        finally:
            task.cancel()
            await node.agent.stop()

    def wrap(test: Callable[[Node], Coroutine[Any, Any, None]]) -> Callable[[Node], None]:
        @functools.wraps(test)
        def run(node: Node) -> None:
            asyncio.run(scenario(test, node))

        return run

    return wrap


def _images(without: str = "") -> Images:
    found = {
        name: Found(path=Path("/bin") / name, version="1", source="test")
        for name in PROGRAMS
        if name != without
    }
    return Images(Tools(bin_dir=Path("/bin"), share=Path("/share"), found=found))


def _containers(images: Iterable[str]) -> list[dict[str, Any]]:
    return [{"name": f"c{n}", "image": image} for n, image in enumerate(images)]


def _pod(
    *images: str, init: Iterable[str] = (), phase: str = "Pending", **meta: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": "web-0", "namespace": "mesh", "uid": "u-1-longer", **meta},
        "spec": {"containers": _containers(images), "initContainers": _containers(init)},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("reference", "program", "user"),
    [
        ("docker.io/prom/prometheus:v3.10.0", "prometheus", 65534),
        ("docker.io/jaegertracing/jaeger:2.17.0", "jaeger", 10001),
    ],
)
def test_a_program_that_could_not_be_had_leaves_its_image_unknown(
    reference: str, program: str, user: int
) -> None:
    image = _images().find(reference, Isolation.ROOT)
    assert image is not None
    assert image.entrypoint == (f"/usr/local/bin/{program}",)
    assert image.user == user, "the official image's"
    assert _images(without=program).find(reference, Isolation.ROOT) is None
    assert _images().find(reference, Isolation.NONE) is None, "it needs a network of its own"


ECHO = "service-mesh.lab/echo"
PROXY = "registry.istio.io/release/proxyv2:1.31.0"


@following()
async def test_a_pod_with_an_unknown_image_is_left_to_kwok_and_says_which(node: Node) -> None:
    await node.send("ADDED", _pod(ECHO, "docker.io/library/nginx:1", init=[PROXY, "redis"]))
    ((path, patch),) = node.api.merged
    assert path == "/api/v1/namespaces/mesh/pods/web-0"
    reason = "no process can stand for image redis, docker.io/library/nginx:1"
    assert patch == {"metadata": {"annotations": {SIMULATED: reason}}}
    assert node.started == []


@following()
async def test_a_pod_that_cannot_be_marked_is_marked_later_and_holds_up_no_other(
    node: Node,
) -> None:
    node.api.failures = 3
    await node.send("ADDED", _pod("docker.io/library/nginx:1"))
    await node.send("ADDED", _pod(ECHO, uid="u-2"))
    assert [pod.uid for pod in node.started] == ["u-2"]
    async with asyncio.timeout(20):
        while not node.api.merged:
            await asyncio.sleep(0)
    assert node.api.failures == 0


@following()
async def test_a_pod_whose_images_are_all_known_is_run_and_not_marked(node: Node) -> None:
    await node.send("ADDED", _pod(ECHO, init=[PROXY]))
    (started,) = node.started
    assert started.images.keys() == {ECHO, PROXY}
    assert node.api.merged == []
    assert not started.over


@pytest.mark.parametrize(
    "image",
    [
        "docker.io/istio/proxyv2:1.31.0",
        "mirror.example:5000/a/proxyv2@sha256:00",
        "mirror.example:5000/a/proxyv2:1.31.0-distroless@sha256:00",
        "proxyv2",
    ],
)
def test_an_image_is_known_by_its_name_wherever_it_comes_from(node: Node, image: str) -> None:
    @following()
    async def scenario(node: Node) -> None:
        await node.send("ADDED", _pod(image))
        assert len(node.started) == 1

    scenario(node)


@following()
async def test_a_pod_that_is_simulated_already_is_left_alone(node: Node) -> None:
    await node.send("ADDED", _pod(ECHO, annotations={SIMULATED: "somebody said so"}))
    await node.send("ADDED", _pod("nginx", annotations={SIMULATED: "no process"}))
    assert node.started == []
    assert node.api.merged == []


@following()
async def test_a_pod_is_started_once_however_often_it_changes(node: Node) -> None:
    for kind in ("ADDED", "MODIFIED", "MODIFIED"):
        await node.send(kind, _pod(ECHO))
    assert len(node.started) == 1


@pytest.mark.parametrize(
    "pod",
    [
        _pod(ECHO, deletionTimestamp="2026-01-01T00:00:00Z"),
        _pod(ECHO, phase="Succeeded"),
        _pod(ECHO, phase="Failed"),
    ],
    ids=["deleted", "succeeded", "failed"],
)
def test_a_pod_that_is_over_is_not_run(node: Node, pod: dict[str, Any]) -> None:
    @following()
    async def scenario(node: Node) -> None:
        await node.send("ADDED", pod)
        assert node.started == []

    scenario(node)


@following()
async def test_a_deletion_stops_a_pod_with_the_grace_period_it_was_given(node: Node) -> None:
    await node.send("ADDED", _pod(ECHO))
    meta: dict[str, Any] = {
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": 7,
    }
    await node.send("MODIFIED", _pod(ECHO, **meta))
    (started,) = node.started
    assert started.over
    assert started.stopped
    assert started.stopped["metadata"]["deletionGracePeriodSeconds"] == 7
    assert node.agent.find("mesh", "web-0") is None
    # what still arrives of it starts nothing
    await node.send("MODIFIED", _pod(ECHO, **meta))
    await node.send("DELETED", _pod(ECHO))
    assert len(node.started) == 1


@following()
async def test_a_pod_that_is_gone_without_a_word_is_stopped_too(node: Node) -> None:
    await node.send("ADDED", _pod(ECHO))
    await node.send("DELETED", _pod(ECHO))
    assert node.started[0].over


@following()
async def test_a_pod_of_the_same_name_is_another_one(node: Node) -> None:
    await node.send("ADDED", _pod(ECHO))
    await node.send("ADDED", _pod(ECHO, uid="u-2-longer"))
    await node.send("DELETED", _pod(ECHO))
    first, second = node.started
    assert (first.over, second.over) == (True, False)
    assert first.options["folder"] != second.options["folder"]
    assert first.options["logs"] == second.options["logs"] == node.paths.logs / "mesh_web-0"


@following()
async def test_a_pod_that_ends_badly_is_told_of_and_takes_no_other_along(node: Node) -> None:
    await node.send("ADDED", _pod(ECHO))
    node.started[0].fails = True
    await node.send("DELETED", _pod(ECHO))
    await node.send("ADDED", _pod(ECHO, uid="u-2"))
    assert [pod.over for pod in node.started] == [True, False]
    assert "mesh/web-0 ended badly" in node.log.text


@following()
async def test_a_pod_is_found_by_its_namespace_and_name_while_it_runs(node: Node) -> None:
    await node.send("ADDED", _pod(ECHO))
    assert node.agent.find("mesh", "web-0") is cast("Any", node.started[0])
    assert node.agent.find("mesh", "web-1") is None
    assert node.agent.find("other", "web-0") is None


@following()
async def test_the_end_of_the_agent_is_the_end_of_its_pods(node: Node) -> None:
    for uid in ("u-1", "u-2"):
        await node.send("ADDED", _pod(ECHO, uid=uid))
    await node.agent.stop()
    assert [pod.over for pod in node.started] == [True, True]


@following(Isolation.NONE)
async def test_without_namespaces_istiod_runs_on_loopback_and_all_else_is_simulated(
    node: Node,
) -> None:
    await node.send("ADDED", _pod("registry.istio.io/release/pilot:1.31.0"))
    await node.send("ADDED", _pod(ECHO, uid="u-2"))
    (started,) = node.started
    assert isinstance(started, FakeLoopbackPod)
    assert node.agent.find("mesh", "web-0") is None  # nobody can enter it
    assert [SIMULATED in patch["metadata"]["annotations"] for _, patch in node.api.merged] == [True]


@pytest.mark.parametrize(
    ("isolation", "single"),
    [(Isolation.ROOT, False), (Isolation.SUBUID, False), (Isolation.SINGLE_UID, True)],
)
def test_a_pod_knows_whether_there_is_one_user_id_only(
    node: Node, isolation: Isolation, *, single: bool
) -> None:
    @following(isolation)
    async def scenario(node: Node) -> None:
        await node.send("ADDED", _pod(ECHO))
        assert node.started[0].options["single_uid"] is single

    scenario(node)


def _service(name: str, address: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "mesh", "uid": name, "labels": labels},
        "spec": {"clusterIP": address, "clusterIPs": [address]},
    }


def test_names_rules_and_the_way_in_follow_the_services(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: asyncio.Queue[list[str]] = asyncio.Queue()
    loop = asyncio.new_event_loop()

    def apply(services: list[dict[str, Any]], _: Any) -> None:
        names = [service["metadata"]["name"] for service in services]
        loop.call_soon_threadsafe(applied.put_nowait, names)

    async def nothing(_: Any) -> None:
        pass

    monkeypatch.setattr("lab.node.network.apply_services", apply)
    monkeypatch.setattr("lab.node.dns.Server.serve", nothing)

    async def scenario() -> None:
        agent = Agent(cast("Api", node.api), node.paths, _images(), Isolation.ROOT)
        task = asyncio.create_task(agent.run())
        web = _service("web", "10.96.0.7", app="web")
        gateway = _service("gateway", "10.96.0.8", istio="ingressgateway")
        for kind, service, expected in (
            ("ADDED", web, ["web"]),
            ("ADDED", gateway, ["web", "gateway"]),
            ("DELETED", web, ["gateway"]),
        ):
            await node.send(kind, service, SERVICES)
            async with asyncio.timeout(20):
                assert await applied.get() == expected
            table = {f"{name}.mesh.svc.cluster.local" for name in expected}
            assert agent._dns.table.keys() == table
            found = ("10.96.0.8", 80) if "gateway" in expected else None
            assert agent.ingress() == found
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(scenario())


def test_the_node_says_that_it_is_ready_and_where(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[bool] = []
    monkeypatch.setattr("lab.node.network.prepare_services", lambda: prepared.append(True))
    agent = Agent(cast("Api", node.api), node.paths, _images(), Isolation.ROOT)
    asyncio.run(agent.register())
    ((method, path, body),) = node.api.requested
    assert (method, path, body["metadata"]["name"]) == ("POST", "/api/v1/nodes", NODE)
    ((path, patch),) = node.api.merged
    assert path == f"/api/v1/nodes/{NODE}/status"
    (condition,) = patch["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("Ready", "True")
    assert {"type": "InternalIP", "address": NODE_ADDRESS} in patch["status"]["addresses"]
    assert prepared == [True]


def test_without_namespaces_no_rule_of_this_machine_is_touched(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[bool] = []
    monkeypatch.setattr("lab.node.network.prepare_services", lambda: touched.append(True))
    agent = Agent(cast("Api", node.api), node.paths, _images(), Isolation.NONE)
    asyncio.run(agent.register())
    assert touched == []
    assert len(node.api.merged) == 1
