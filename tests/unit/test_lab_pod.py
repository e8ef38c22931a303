"""The life of a pod: what its status says, and what starts, restarts and ends when.

Processes and networks are fakes, and the time is the event loop's own: it jumps to whatever is
next, so that a back-off of 30 s takes none.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

import pytest

from lab.node import network
from lab.node.api import ApiError
from lab.node.images import Image
from lab.node.pod import Pod, Run

if TYPE_CHECKING:
    import signal
    from collections.abc import Awaitable, Callable, Coroutine
    from concurrent.futures import Executor
    from pathlib import Path

    from lab.node.api import Api
    from lab.node.container import Surroundings

NETNS = "pod-u-1"

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that never waits."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def run_in_executor(
        self, _: Executor | None, func: Callable[[*_Args], _Result], *args: *_Args
    ) -> asyncio.Future[_Result]:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: _Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits, and nothing would ever happen"
        self._loop.now += timeout
        return super().select(0)


def _time() -> float:
    return asyncio.get_running_loop().time()


class FakeProcess:
    """A container that runs until the test ends it."""

    pid = 4711

    def __init__(self, name: str, node: Node) -> None:
        self._name = name
        self._node = node
        self._ended = asyncio.get_running_loop().create_future()
        self.begun = _time()

    def end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    async def wait(self) -> int:
        return int(await asyncio.shield(self._ended))

    def send(self, number: signal.Signals) -> None:
        self._node.events.append(f"{number.name} {self._name}")
        self.end(128 + number)

    async def stop(self, grace_s: float) -> None:
        self._node.events.append(f"SIGTERM {self._name}")
        self._node.graces[self._name] = grace_s
        self.end(143)


class FakeApi:
    """Keeps every status that was reported."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.statuses: list[dict[str, Any]] = [{}]
        self.deleted: list[dict[str, Any]] = []
        self.failures = 0
        self.down = False
        self._reported = asyncio.Event()

    async def find(self, path: str) -> dict[str, Any] | None:
        if self.down:
            raise ApiError(503, "the API server restarts")
        return self.objects.get(path)

    async def merge(self, path: str, patch: dict[str, Any]) -> None:
        assert path == "/api/v1/namespaces/mesh/pods/web-0/status"
        if self.failures:
            self.failures -= 1
            raise OSError("the API server is down")
        self.statuses.append(patch["status"])
        self._reported.set()

    async def request(self, method: str, path: str, body: dict[str, Any]) -> None:
        assert (method, path) == ("DELETE", "/api/v1/namespaces/mesh/pods/web-0")
        self.deleted.append(body)

    async def until(self, expected: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The first status from now on that is as expected."""
        async with asyncio.timeout(3600):
            while not expected(self.statuses[-1]):
                self._reported.clear()
                await self._reported.wait()
        return self.statuses[-1]


class Node:
    """Where the pod of a test runs: its API server, its processes, what it was asked to do."""

    def __init__(self, folder: Path) -> None:
        self.api = FakeApi()
        self.folder = folder
        self.addresses = network.AddressPool()
        self.events: list[str] = []
        self.graces: dict[str, float] = {}
        self.processes: dict[str, list[FakeProcess]] = {}
        self.commands: dict[str, Callable[[], Awaitable[int]]] = {}
        self.networks: list[str] = []
        self.network_error = ""
        self.start_errors: dict[str, Exception] = {}
        self.pod: Pod
        self._running: asyncio.Task[None]

    def run(self, *containers: dict[str, Any], **spec: Any) -> None:
        """Start a pod with these containers."""
        pod = {
            "metadata": {"name": "web-0", "namespace": "mesh", "uid": "u-1"},
            "spec": {"containers": [*containers], **spec},
            "status": {},
        }
        self.pod = Pod(
            cast("Api", self.api),
            pod,
            {"example/app:1": Image(entrypoint=("app",))},
            folder=self.folder / "pod",
            logs=self.folder / "logs",
            addresses=self.addresses,
            single_uid=False,
        )
        self._running = asyncio.create_task(self.pod.run())

    def add_network(self, name: str, address: str) -> None:
        assert address == self.pod.address
        self.networks.append(name)
        if self.network_error:
            raise RuntimeError(self.network_error)

    async def start(self, around: Surroundings, container: dict[str, Any], _: Image) -> FakeProcess:
        name = container["name"]
        self.events.append(f"start {name}")
        assert around.netns in self.networks
        if name in self.start_errors:
            raise self.start_errors[name]
        process = FakeProcess(name, self)
        self.processes.setdefault(name, []).append(process)
        return process

    async def execute(self, _: Pod, run: Run, command: list[str]) -> int:
        self.events.append(f"{command[0]} {run.name}")
        return await self.commands.get(command[0], _passes)()

    def latest(self, name: str) -> FakeProcess:
        return self.processes[name][-1]

    async def delete(self, *, grace: int = 30) -> None:
        """Delete the pod, and wait until it is gone."""
        self.pod.stop({"metadata": {"deletionGracePeriodSeconds": grace}})
        async with asyncio.timeout(3600):
            await self._running

    def happened(self, *kinds: str) -> list[str]:
        """Events of these kinds, in order."""
        return [event for event in self.events if event.split()[0] in kinds]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(tmp_path)

    def timestamp() -> str:
        return f"second {_time():.0f}"

    async def execute(pod: Pod, run: Run, command: list[str]) -> int:
        return await node.execute(pod, run, command)

    monkeypatch.setattr("lab.node.pod.start", node.start)
    monkeypatch.setattr("lab.node.pod.now", timestamp)
    monkeypatch.setattr("lab.node.pod.time", SimpleNamespace(monotonic=_time))
    monkeypatch.setattr(Pod, "execute", execute)
    monkeypatch.setattr(network, "add_pod", node.add_network)
    monkeypatch.setattr(network, "remove_pod", node.networks.remove)
    return node


def in_no_time(test: Callable[[Node], Coroutine[Any, Any, None]]) -> Callable[[Node], None]:
    """Run a test in an event loop that never waits."""

    @functools.wraps(test)
    def run(node: Node) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(test(node))

    return run


async def _passes() -> int:
    return 0


async def _fails() -> int:
    return 1


async def _hangs() -> int:
    await asyncio.Event().wait()
    return 0


def _container(name: str = "app", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "example/app:1", **more}


def _sidecar(name: str = "proxy", **more: Any) -> dict[str, Any]:
    return _container(name, restartPolicy="Always", **more)


def _probe(command: str = "probe", **more: Any) -> dict[str, Any]:
    return {"exec": {"command": [command]}, "periodSeconds": 10, **more}


def _condition(status: dict[str, Any], kind: str = "Ready") -> str:
    found = [one["status"] for one in status.get("conditions", ()) if one["type"] == kind]
    return str(found[0]) if found else ""


def _ready(status: dict[str, Any]) -> bool:
    return _condition(status) == "True"


def _of(status: dict[str, Any], name: str = "app") -> dict[str, Any]:
    """The status of one container; empty while there is none."""
    kinds = ("initContainerStatuses", "containerStatuses")
    every = [one for kind in kinds for one in status.get(kind, ())]
    return next((one for one in every if one["name"] == name), {"state": {}, "lastState": {}})


def _runs(name: str = "app") -> Callable[[dict[str, Any]], bool]:
    return lambda status: "running" in _of(status, name)["state"]


def _restarted(times: int, name: str = "app") -> Callable[[dict[str, Any]], bool]:
    def expected(status: dict[str, Any]) -> bool:
        return _runs(name)(status) and bool(_of(status, name)["restartCount"] == times)

    return expected


@in_no_time
async def test_a_pod_without_probes_is_ready_when_it_runs(node: Node) -> None:
    node.run(_container())
    status = await node.api.until(_ready)
    assert status["phase"] == "Running"
    assert status["podIP"] == "10.244.0.1"
    assert status["podIPs"] == [{"ip": "10.244.0.1"}]
    assert _of(status)["state"] == {"running": {"startedAt": "second 0"}}
    assert {_condition(status, one["type"]) for one in status["conditions"]} == {"True"}


@in_no_time
async def test_a_pod_is_not_ready_before_its_readiness_probe_passed(node: Node) -> None:
    node.commands["probe"] = _fails
    node.run(_container(readinessProbe=_probe()))
    await asyncio.sleep(60)
    status = await node.api.until(_runs())
    assert len(node.happened("probe")) > 1
    assert (_of(status)["started"], _of(status)["ready"]) == (True, False)
    assert _condition(status, "ContainersReady") == _condition(status) == "False"
    node.commands["probe"] = _passes
    await node.api.until(_ready)


@in_no_time
async def test_readiness_takes_as_many_successes_as_its_probe_says(node: Node) -> None:
    node.run(_container(readinessProbe=_probe(successThreshold=4)))
    await node.api.until(_ready)
    assert len(node.happened("probe")) == 4


@in_no_time
async def test_readiness_is_lost_only_after_as_many_failures_as_the_probe_says(node: Node) -> None:
    node.run(_container(readinessProbe=_probe(failureThreshold=3)))
    await node.api.until(_ready)
    node.commands["probe"] = _fails
    node.events.clear()
    status = await node.api.until(lambda status: not _ready(status))
    assert len(node.happened("probe")) == 3
    assert _runs()(status)
    assert _of(status)["restartCount"] == 0


@in_no_time
async def test_nothing_is_asked_for_readiness_before_the_startup_probe_passed(node: Node) -> None:
    node.commands["startup"] = _fails
    startup = _probe("startup", failureThreshold=60)
    node.run(_container(startupProbe=startup, readinessProbe=_probe("readiness")))
    status = await node.api.until(_runs())
    await asyncio.sleep(300)
    assert (_of(status)["started"], _of(status)["ready"]) == (False, False)
    assert node.happened("readiness") == []
    node.commands["startup"] = _passes
    await node.api.until(_ready)
    assert node.happened("readiness") == ["readiness app"]


@in_no_time
async def test_a_container_that_does_not_start_up_in_time_is_killed_and_started_again(
    node: Node,
) -> None:
    node.commands["startup"] = _fails
    node.run(_container(startupProbe=_probe("startup", failureThreshold=3)))
    status = await node.api.until(_restarted(1))
    assert node.happened("start", "SIGKILL") == ["start app", "SIGKILL app", "start app"]
    assert _of(status)["lastState"]["terminated"]["exitCode"] == 137


@in_no_time
async def test_a_container_that_fails_its_liveness_probe_is_killed_and_started_again(
    node: Node,
) -> None:
    node.run(_container(livenessProbe=_probe("liveness")))
    await node.api.until(_ready)
    await asyncio.sleep(300)
    assert node.happened("SIGKILL") == []
    node.commands["liveness"] = _fails
    node.events.clear()
    await node.api.until(_restarted(1))
    assert node.happened("liveness", "SIGKILL", "start") == [
        *["liveness app"] * 3,
        "SIGKILL app",
        "start app",
    ]


@in_no_time
async def test_a_container_is_killed_at_its_last_failure_and_not_a_period_later(node: Node) -> None:
    node.commands["liveness"] = _fails
    liveness = _probe("liveness", failureThreshold=1, periodSeconds=100)
    node.run(_container(livenessProbe=liveness))
    await node.api.until(_restarted(1))
    assert _time() < 50


@in_no_time
async def test_a_probe_of_a_port_that_has_no_such_name_leaves_the_other_probes_alone(
    node: Node,
) -> None:
    readiness = {"httpGet": {"port": "nope"}}
    node.run(_container(readinessProbe=readiness, livenessProbe=_probe("liveness")))
    await node.api.until(_runs())
    await asyncio.sleep(300)
    assert len(node.happened("liveness")) > 5
    assert not _ready(node.api.statuses[-1])


@in_no_time
async def test_one_success_in_between_keeps_a_container_alive(node: Node) -> None:
    answers = iter([1, 1, 0] * 20)

    async def mostly_fails() -> int:
        return next(answers, 0)

    node.commands["liveness"] = mostly_fails
    node.run(_container(livenessProbe=_probe("liveness", failureThreshold=3)))
    await asyncio.sleep(1000)
    assert next(answers, None) is None
    assert node.happened("SIGKILL") == []


@in_no_time
async def test_a_pod_is_not_ready_without_its_sidecar(node: Node) -> None:
    node.commands["probe"] = _fails
    node.run(_container(), initContainers=[_sidecar(readinessProbe=_probe())])
    status = await node.api.until(_runs())
    await asyncio.sleep(60)
    status = node.api.statuses[-1]
    assert _of(status)["ready"] is True
    assert _of(status, "proxy")["ready"] is False
    assert (status["phase"], _condition(status, "Initialized")) == ("Running", "True")
    assert _condition(status, "ContainersReady") == _condition(status) == "False"
    node.commands["probe"] = _passes
    await node.api.until(_ready)


@in_no_time
async def test_a_sidecar_that_ended_well_is_not_ready(node: Node) -> None:
    node.run(_container(), initContainers=[_sidecar()])
    for times in range(3):
        await node.api.until(_restarted(times, "proxy"))
        await node.api.until(_ready)
        node.latest("proxy").end(0)
    status = await node.api.until(lambda status: "waiting" in _of(status, "proxy")["state"])
    assert _of(status, "proxy")["ready"] is False
    assert not _ready(status)


@in_no_time
async def test_a_pod_is_not_ready_without_all_of_its_containers(node: Node) -> None:
    node.run(_container("one"), _container("two"))
    await node.api.until(_ready)
    node.latest("two").end(1)
    status = await node.api.until(lambda status: not _ready(status))
    assert (_of(status, "one")["ready"], _of(status, "two")["ready"]) == (True, False)
    assert status["phase"] == "Running"


@in_no_time
async def test_a_failing_init_container_keeps_a_pod_pending(node: Node) -> None:
    node.run(_container(), initContainers=[_container("setup")])
    for times in range(3):
        status = await node.api.until(_restarted(times, "setup"))
        assert status["phase"] == "Pending"
        assert _condition(status, "Initialized") == _condition(status) == "False"
        assert _of(status)["state"] == {"waiting": {"reason": "PodInitializing"}}
        node.latest("setup").end(1)
    await node.api.until(_restarted(3, "setup"))
    assert node.happened("start") == ["start setup"] * 4
    node.latest("setup").end(0)
    status = await node.api.until(_ready)
    assert status["phase"] == "Running"
    assert node.events[-1] == "start app"
    assert _of(status, "setup")["state"]["terminated"]["reason"] == "Completed"
    assert _of(status, "setup")["ready"] is True


@in_no_time
async def test_init_containers_run_one_after_another(node: Node) -> None:
    node.run(_container(), initContainers=[_container("one"), _container("two")])
    await node.api.until(_runs("one"))
    await asyncio.sleep(60)
    assert node.happened("start") == ["start one"]
    node.latest("one").end(0)
    await node.api.until(_runs("two"))
    assert node.happened("start") == ["start one", "start two"]


@in_no_time
async def test_a_restart_is_counted_and_what_ended_is_remembered(node: Node) -> None:
    node.run(_container())
    await node.api.until(_ready)
    await asyncio.sleep(7)
    node.latest("app").end(3)
    status = await node.api.until(_restarted(1))
    assert _of(status)["lastState"] == {
        "terminated": {
            "exitCode": 3,
            "reason": "Error",
            "startedAt": "second 0",
            "finishedAt": "second 7",
        }
    }
    assert _of(status)["state"] == {"running": {"startedAt": "second 7"}}
    await node.api.until(_ready)


@in_no_time
async def test_back_off_grows_to_30_s_and_says_how_long_it_is(node: Node) -> None:
    node.run(_container())
    waits: list[float] = []
    for times in range(9):
        await node.api.until(_restarted(times))
        ended = _time()
        node.latest("app").end(1)
        status = await node.api.until(lambda status: "waiting" in _of(status)["state"])
        told = _of(status)["state"]["waiting"]
        await node.api.until(_restarted(times + 1))
        waits.append(node.latest("app").begun - ended)
        assert told["message"] == f"restart in {waits[-1]:.0f} s"
        assert told["reason"] == ("CrashLoopBackOff" if waits[-1] else "ContainerCreating")
    assert waits == pytest.approx([0, 1, 2, 4, 8, 16, 30, 30, 30])


@in_no_time
async def test_a_container_that_ran_long_starts_again_at_once(node: Node) -> None:
    node.run(_container())
    for times in range(4):
        await node.api.until(_restarted(times))
        node.latest("app").end(1)
    await node.api.until(_restarted(4))
    await asyncio.sleep(61)
    node.latest("app").end(1)
    ended = _time()
    await node.api.until(_restarted(5))
    assert node.latest("app").begun == ended


@pytest.mark.parametrize(
    ("codes", "phase"),
    [((0, 0), "Succeeded"), ((0, 1), "Failed"), ((137, 0), "Failed"), ((0, None), "Running")],
)
def test_a_pod_that_never_restarts_ends_as_its_exit_codes_say(
    node: Node, codes: tuple[int | None, ...], phase: str
) -> None:
    async def scenario(node: Node) -> None:
        node.run(_container("one"), _container("two"), restartPolicy="Never")
        await node.api.until(_ready)
        for name, code in zip(("one", "two"), codes, strict=True):
            if code is not None:
                node.latest(name).end(code)
        await asyncio.sleep(300)
        status = node.api.statuses[-1]
        assert status["phase"] == phase
        assert _condition(status) == "False"
        assert node.happened("start") == ["start one", "start two"]
        ended = _of(status, "one")["state"]["terminated"]
        assert ended["exitCode"] == codes[0]
        assert ended["reason"] == ("Error" if codes[0] else "Completed")

    in_no_time(scenario)(node)


@in_no_time
async def test_on_failure_a_container_is_started_again_until_it_succeeds(node: Node) -> None:
    node.run(_container(), restartPolicy="OnFailure")
    await node.api.until(_ready)
    node.latest("app").end(1)
    await node.api.until(_restarted(1))
    node.latest("app").end(0)
    await asyncio.sleep(300)
    assert node.api.statuses[-1]["phase"] == "Succeeded"
    assert len(node.happened("start")) == 2


@in_no_time
async def test_a_pod_that_never_restarts_fails_with_its_init_container(node: Node) -> None:
    node.run(_container(), initContainers=[_container("setup")], restartPolicy="Never")
    await node.api.until(_runs("setup"))
    node.latest("setup").end(1)
    await asyncio.sleep(300)
    assert node.api.statuses[-1]["phase"] == "Failed"
    assert node.happened("start") == ["start setup"]


@in_no_time
async def test_a_condition_keeps_its_time_until_its_status_changes(node: Node) -> None:
    def since(status: dict[str, Any]) -> dict[str, str]:
        return {one["type"]: one["lastTransitionTime"] for one in status["conditions"]}

    node.commands["probe"] = _fails
    node.run(_container(readinessProbe=_probe()), _container("two"))
    await node.api.until(_runs())
    await asyncio.sleep(50)
    node.latest("two").end(1)  # something to report, but no condition changes
    first = since(await node.api.until(_restarted(1, "two")))
    assert set(first.values()) == {"second 0"}
    await asyncio.sleep(50)
    node.commands["probe"] = _passes
    second = since(await node.api.until(_ready))
    changed = {kind for kind in first if second[kind] != first[kind]}
    assert changed == {"ContainersReady", "Ready"}
    assert second["Ready"] == "second 100"


@in_no_time
async def test_sidecars_start_before_the_app_and_stop_after_it_last_started_first(
    node: Node,
) -> None:
    node.run(_container(), initContainers=[_sidecar("first"), _sidecar("second")])
    await node.api.until(_ready)
    assert node.events == ["start first", "start second", "start app"]
    node.events.clear()
    await node.delete()
    assert node.events == ["SIGTERM app", "SIGTERM second", "SIGTERM first"]


@in_no_time
async def test_the_app_waits_until_its_sidecar_is_up(node: Node) -> None:
    node.commands["startup"] = _fails
    startup = _probe("startup", failureThreshold=60)
    node.run(_container(), initContainers=[_sidecar(startupProbe=startup)])
    status = await node.api.until(_runs("proxy"))
    await asyncio.sleep(60)
    assert node.happened("start") == ["start proxy"]
    assert status["phase"] == "Pending"
    node.commands["startup"] = _passes
    await node.api.until(_ready)


@in_no_time
async def test_a_sidecar_that_ends_is_started_again_whatever_the_pods_policy(node: Node) -> None:
    node.run(_container(), initContainers=[_sidecar()], restartPolicy="Never")
    await node.api.until(_ready)
    node.latest("proxy").end(0)
    await node.api.until(_restarted(1, "proxy"))
    assert node.happened("start") == ["start proxy", "start app", "start proxy"]


@in_no_time
async def test_sidecars_end_when_the_app_has_ended_for_good(node: Node) -> None:
    node.run(_container(), initContainers=[_sidecar()], restartPolicy="Never")
    await node.api.until(_ready)
    node.latest("app").end(0)
    await asyncio.sleep(300)
    assert node.events == ["start proxy", "start app", "SIGTERM proxy"]


@in_no_time
async def test_a_post_start_hook_holds_back_the_containers_after_it(node: Node) -> None:
    node.commands["hook"] = _hangs
    hook = {"postStart": {"exec": {"command": ["hook"]}}}
    node.run(_container("proxy", lifecycle=hook), _container())
    status = await node.api.until(_runs("proxy"))
    await asyncio.sleep(60)
    assert node.events == ["start proxy", "hook proxy"]
    assert not _ready(status)
    await node.delete()


@in_no_time
async def test_a_container_that_has_ended_holds_back_no_other_with_its_post_start_hook(
    node: Node,
) -> None:
    node.commands["hook"] = _hangs
    hook = {"postStart": {"exec": {"command": ["hook"]}}}
    node.run(_container("one", lifecycle=hook), _container("two"), restartPolicy="Never")
    await node.api.until(_runs("one"))
    node.latest("one").end(1)
    await node.api.until(_runs("two"))


@in_no_time
async def test_a_container_whose_post_start_hook_fails_is_killed_and_started_again(
    node: Node,
) -> None:
    answers = iter([1, 0])

    async def fails_once() -> int:
        return next(answers)

    node.commands["hook"] = fails_once
    node.run(_container(lifecycle={"postStart": {"exec": {"command": ["hook"]}}}))
    await node.api.until(_ready)
    once = ["start app", "hook app"]
    assert node.events == [*once, "SIGKILL app", *once]


@in_no_time
async def test_pre_stop_has_ended_before_the_process_is_asked_to(node: Node) -> None:
    async def drains() -> int:
        await asyncio.sleep(5)
        node.events.append("drained")
        return 0

    node.commands["drain"] = drains
    node.run(_container(lifecycle={"preStop": {"exec": {"command": ["drain"]}}}))
    await node.api.until(_ready)
    await node.delete(grace=30)
    assert node.events == ["start app", "drain app", "drained", "SIGTERM app"]
    # the hook's time is part of the grace period
    assert node.graces["app"] == pytest.approx(25)


@in_no_time
async def test_a_pre_stop_hook_gets_no_more_than_the_grace_period(node: Node) -> None:
    node.commands["drain"] = _hangs
    node.run(
        _container(lifecycle={"preStop": {"exec": {"command": ["drain"]}}}),
        _container("two", lifecycle={"preStop": {"sleep": {"seconds": 600}}}),
    )
    await node.api.until(_ready)
    begun = _time()
    await node.delete(grace=30)
    assert _time() - begun == pytest.approx(30, abs=1)
    assert node.happened("SIGTERM") == ["SIGTERM app", "SIGTERM two"]


@in_no_time
async def test_a_sleep_before_the_end_is_slept(node: Node) -> None:
    node.run(_container(lifecycle={"preStop": {"sleep": {"seconds": 4}}}))
    await node.api.until(_ready)
    begun = _time()
    await node.delete(grace=30)
    assert _time() - begun == pytest.approx(4)


@in_no_time
async def test_a_pod_that_ends_leaves_nothing_behind(node: Node) -> None:
    node.api.objects["/api/v1/namespaces/mesh/configmaps/istio"] = {"data": {"mesh": "1"}}
    volume = {"name": "config", "configMap": {"name": "istio"}}
    node.run(_container(), initContainers=[_sidecar()], volumes=[volume])
    await node.api.until(_ready)
    assert node.networks == [NETNS]
    starts = node.happened("start")
    await node.delete()
    await asyncio.sleep(300)
    assert node.happened("start") == starts
    assert node.networks == []
    assert not (node.folder / "pod").exists()
    assert node.addresses._released == ["10.244.0.1"]
    # another pod of this name may be there already
    assert node.api.deleted == [{"gracePeriodSeconds": 0, "preconditions": {"uid": "u-1"}}]


@in_no_time
async def test_a_pod_that_is_deleted_in_its_init_container_ends_it(node: Node) -> None:
    node.run(_container(), initContainers=[_container("setup")])
    await node.api.until(_runs("setup"))
    await node.delete()
    await asyncio.sleep(300)
    assert node.events == ["start setup", "SIGTERM setup"]


@in_no_time
async def test_a_pod_that_is_deleted_between_two_restarts_is_not_started_again(node: Node) -> None:
    node.run(_container())
    for times in range(4):
        await node.api.until(_restarted(times))
        node.latest("app").end(1)
    await node.api.until(lambda status: "waiting" in _of(status)["state"])
    await node.delete()
    await asyncio.sleep(300)
    assert len(node.happened("start")) == 4
    assert node.happened("SIGTERM") == []


@in_no_time
async def test_a_pod_that_is_deleted_while_a_post_start_hook_fails_is_not_started_again(
    node: Node,
) -> None:
    node.commands["hook"] = _fails
    hook = {"postStart": {"exec": {"command": ["hook"]}}}
    node.run(_container("proxy", lifecycle=hook), _container())
    await node.api.until(_restarted(3, "proxy"))
    await node.api.until(lambda status: "waiting" in _of(status, "proxy")["state"])
    node.events.clear()
    await node.delete()
    await asyncio.sleep(300)
    assert node.happened("start") == []


@in_no_time
async def test_a_sidecar_between_two_restarts_is_not_started_while_another_drains(
    node: Node,
) -> None:
    async def drains() -> int:
        await asyncio.sleep(20)
        return 0

    node.commands["drain"] = drains
    hook = {"preStop": {"exec": {"command": ["drain"]}}}
    sidecars = [_sidecar("first", lifecycle=hook), _sidecar("second")]
    node.run(_container(), initContainers=sidecars)
    await node.api.until(_ready)
    for times in range(5):
        await node.api.until(_restarted(times, "second"))
        node.latest("second").end(1)
    await node.api.until(lambda status: "waiting" in _of(status, "second")["state"])
    node.events.clear()
    await node.delete(grace=30)
    assert node.events == ["SIGTERM app", "drain first", "SIGTERM first"]


@in_no_time
async def test_a_volume_that_does_not_exist_yet_is_waited_for_and_named(node: Node) -> None:
    volume = {"name": "config", "configMap": {"name": "istio"}}
    node.run(_container(), initContainers=[_container("setup")], volumes=[volume])
    status = await node.api.until(lambda status: "message" in str(status))
    await asyncio.sleep(10)
    reason = {"reason": "ContainerCreating", "message": "configmap mesh/istio not found"}
    assert _of(status)["state"] == _of(status, "setup")["state"] == {"waiting": reason}
    assert status["phase"] == "Pending"
    assert node.events == []
    node.api.objects["/api/v1/namespaces/mesh/configmaps/istio"] = {"data": {"mesh": "1"}}
    await node.api.until(_runs("setup"))
    assert (node.folder / "pod/volumes/config/mesh").read_text() == "1"


@in_no_time
async def test_a_reason_to_wait_goes_with_its_cause(node: Node) -> None:
    volume = {"name": "config", "configMap": {"name": "istio"}}
    node.run(_container(), initContainers=[_container("setup")], volumes=[volume])
    await node.api.until(lambda status: "not found" in str(status))
    node.api.objects["/api/v1/namespaces/mesh/configmaps/istio"] = {"data": {}}
    await node.api.until(_runs("setup"))
    await asyncio.sleep(60)
    assert "not found" not in str(node.api.statuses[-1])


@in_no_time
async def test_a_pod_waits_for_its_volumes_while_the_api_server_is_down(node: Node) -> None:
    node.api.objects["/api/v1/namespaces/mesh/configmaps/istio"] = {"data": {"mesh": "1"}}
    node.api.down = True
    node.run(_container(), volumes=[{"name": "config", "configMap": {"name": "istio"}}])
    await asyncio.sleep(30)
    assert node.events == []
    node.api.down = False
    await node.api.until(_ready)


@in_no_time
async def test_a_changed_volume_reaches_a_running_pod(node: Node) -> None:
    config = node.api.objects["/api/v1/namespaces/mesh/configmaps/istio"] = {"data": {"mesh": "1"}}
    node.run(_container(), volumes=[{"name": "config", "configMap": {"name": "istio"}}])
    await node.api.until(_ready)
    config["data"] = {"mesh": "2"}
    await asyncio.sleep(60)
    assert (node.folder / "pod/volumes/config/mesh").read_text() == "2"


@in_no_time
async def test_volumes_change_again_after_the_api_server_was_down(node: Node) -> None:
    config = node.api.objects["/api/v1/namespaces/mesh/configmaps/istio"] = {"data": {"mesh": "1"}}
    node.run(_container(), volumes=[{"name": "config", "configMap": {"name": "istio"}}])
    await node.api.until(_ready)
    node.api.down = True
    await asyncio.sleep(30)
    node.api.down = False
    config["data"] = {"mesh": "2"}
    await asyncio.sleep(60)
    assert (node.folder / "pod/volumes/config/mesh").read_text() == "2"


@in_no_time
async def test_a_pod_that_cannot_be_made_says_why_and_can_be_deleted(node: Node) -> None:
    node.network_error = "ip netns add: Operation not permitted"
    node.run(_container())
    status = await node.api.until(lambda status: "CreateContainerError" in str(status))
    told = _of(status)["state"]["waiting"]
    assert told["message"] == node.network_error
    assert (status["phase"], _condition(status)) == ("Pending", "False")
    await node.delete()
    assert node.addresses._released == ["10.244.0.1"]


@in_no_time
async def test_a_sidecar_that_cannot_start_says_why(node: Node) -> None:
    node.start_errors["proxy"] = OSError("no space left on device")
    node.run(_container(), initContainers=[_sidecar()])
    await asyncio.sleep(60)
    status = node.api.statuses[-1]
    assert "no space left on device" in str(_of(status, "proxy"))
    assert status["phase"] == "Pending"


@in_no_time
async def test_a_container_that_cannot_start_hides_no_other(node: Node) -> None:
    node.start_errors["two"] = KeyError("spec.x")
    node.run(_container("one"), _container("two"))
    await asyncio.sleep(300)
    status = node.api.statuses[-1]
    assert "running" in _of(status, "one")["state"]
    assert "waiting" in _of(status, "two")["state"]


@in_no_time
async def test_a_status_is_reported_once_and_again_while_the_api_server_is_down(node: Node) -> None:
    node.api.failures = 3
    node.run(_container())
    await node.api.until(_ready)
    reported = len(node.api.statuses)
    node.pod._changed.set()
    await asyncio.sleep(60)
    assert len(node.api.statuses) == reported
    assert node.api.failures == 0


@in_no_time
async def test_a_pod_finds_itself_and_the_names_of_its_namespace(node: Node) -> None:
    node.run(_container())
    await node.api.until(_ready)
    etc = node.folder / "pod/etc"
    search, nameserver, options = (etc / "resolv.conf").read_text().splitlines()
    assert search == "search mesh.svc.cluster.local svc.cluster.local cluster.local"
    assert (nameserver, options) == ("nameserver 10.96.0.10", "options ndots:5")
    assert "10.244.0.1\tweb-0" in (etc / "hosts").read_text().splitlines()
