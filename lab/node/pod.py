"""The life of one pod: network, volumes, init containers, containers, probes, status, end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from lab.cluster import KUBERNETES_SERVICE
from lab.node import network
from lab.node.api import ApiError
from lab.node.container import Process, Surroundings, start
from lab.node.probe import Probe
from lab.node.volumes import NotYetError, Volumes
from lab.sandbox import DNS_ADDRESS, NODE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.node.api import Api, Json
    from lab.node.images import Image

_LOG = logging.getLogger("lab.pod")

_VOLUME_SYNC_S = 20
"""How often ConfigMaps, Secrets and tokens are brought up to date. A kubelet takes about 60 s."""

_BACKOFF_S = (0, 1, 2, 4, 8, 16, 30)
"""Waits before a restart. A kubelet starts at 10 s; the lab is there to be looked at."""

_SIDECAR_GRACE_S = 30
"""Seconds that sidecars have to end after the application has ended for good."""

_CANNOT_START = 128
"""Exit code of a container that never ran, as a kubelet has it."""

_EAGER_S = 0.2
"""How often a container that is not up yet is asked: a kubelet takes whole periods."""

_STABLE_S = 60
"""A container that ran this long starts again without waiting."""


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(kw_only=True, slots=True)
class Run:
    """One container of the pod and what became of it."""

    spec: Json
    image: Image
    state: Json = field(default_factory=lambda: {"waiting": {"reason": "PodInitializing"}})
    last: Json = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restarts: int = 0
    process: Process | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the startup probe (if any) has passed."""

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.spec["name"])

    def status(self) -> Json:
        """As in `containerStatuses`."""
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }


class Pod:
    """A pod that runs as processes."""

    def __init__(
        self,
        api: Api,
        pod: Json,
        images: Mapping[str, Image],
        *,
        folder: Path,
        logs: Path,
        addresses: network.AddressPool,
        single_uid: bool,
    ) -> None:
        """Prepare a pod; nothing happens before `run`.

        Args:
            api: the API server.
            pod: the object, already bound to the node.
            images: what each image reference of the pod stands for.
            folder: the pod's own folder, made and removed by it.
            logs: folder of its containers' logs.
            addresses: where its address comes from.
            single_uid: the lab has only one user id.
        """
        meta = pod["metadata"]
        self.name = f"{meta['namespace']}/{meta['name']}"
        self._path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._api = api
        self._pod = pod
        self._images = images
        self._folder = folder
        self._addresses = addresses
        self._netns = f"pod-{meta['uid']}"
        self.address = ""
        self._surroundings = Surroundings(
            pod=pod,
            folder=folder,
            logs=logs,
            netns=self._netns,
            environment={
                "KUBERNETES_SERVICE_HOST": KUBERNETES_SERVICE,
                "KUBERNETES_SERVICE_PORT": "443",
                "KUBERNETES_SERVICE_PORT_HTTPS": "443",
            },
            single_uid=single_uid,
        )
        self._volumes = Volumes(api, pod, folder / "volumes")
        spec = pod["spec"]
        self._init = [self._new(c) for c in spec.get("initContainers") or []]
        self._main = [self._new(c) for c in spec["containers"]]
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._initialized = False
        self._failed = False
        self._finished = False
        self._started_at = now()
        self._conditions: list[Json] = []
        self._tasks: list[asyncio.Task[Any]] = []

    def _new(self, container: Json) -> Run:
        return Run(spec=container, image=self._images[container["image"]])

    @property
    def runs(self) -> list[Run]:
        """Every container, init containers first."""
        return [*self._init, *self._main]

    @property
    def _over(self) -> bool:
        """Nothing is started any more."""
        return self._stopping.is_set() or self._finished

    def stop(self, pod: Json) -> None:
        """Begin the pod's end; `run` returns when it is over.

        Args:
            pod: the object as it is now, with the grace period it was deleted with.
        """
        self._pod["metadata"] |= pod["metadata"]
        self._stopping.set()

    async def run(self) -> None:
        """Live: from the pod's address to its removal from the API server."""
        publisher = asyncio.create_task(self._publish())
        try:
            life = asyncio.create_task(self._live())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({life, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if life.done() and life.exception():
                _LOG.error("%s: %s", self.name, life.exception())
                self._fail(str(life.exception()))
            await stopping
            life.cancel()
            await self._shut_down()
        finally:
            publisher.cancel()
            await asyncio.to_thread(network.remove_pod, self._netns)
            if self.address:
                self._addresses.give_back(self.address)
            shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(Exception):
            await self._api.request(
                "DELETE",
                self._path,
                {"gracePeriodSeconds": 0, "preconditions": {"uid": self._pod["metadata"]["uid"]}},
            )

    async def _live(self) -> None:
        self.address = self._addresses.take()
        self._pod["status"] |= {"podIP": self.address, "hostIP": NODE_ADDRESS}
        self._folder.mkdir(parents=True)
        await asyncio.to_thread(network.add_pod, self._netns, self.address)
        self._sysctls()
        self._write_etc()
        await self._write_volumes()
        self._tasks.append(asyncio.create_task(self._sync_volumes()))
        policy = self._pod["spec"].get("restartPolicy", "Always")
        for run in self._init:
            if _is_sidecar(run):
                self._tasks.append(asyncio.create_task(self._keep(run, "Always")))
                await run.up.wait()
            elif await self._keep(run, "Never" if policy == "Never" else "OnFailure"):
                self._failed = True
                self._changed.set()
                return
        self._initialized = True
        self._changed.set()
        mains = []
        for run in self._main:
            mains.append(asyncio.create_task(self._keep(run, policy)))
            self._tasks.append(mains[-1])
            # a postStart hook holds back the containers after it
            if "postStart" in (run.spec.get("lifecycle") or {}):
                await run.up.wait()
        await asyncio.gather(*mains)
        # the application has ended for good: sidecars are not what a pod lives for
        self._finished = True
        for run in reversed(self._init):
            await self._end(run, time.monotonic() + _SIDECAR_GRACE_S)

    async def _keep(self, run: Run, policy: str) -> int:
        """Run a container again and again, as its restart policy says; its last exit code."""
        attempt = 0
        while True:
            begun = time.monotonic()
            code = await self._once(run)
            if self._over or policy == "Never" or (policy == "OnFailure" and not code):
                run.up.set()  # whoever waits for it waits for nothing
                return code
            attempt = 0 if time.monotonic() - begun > _STABLE_S else attempt + 1
            wait = _BACKOFF_S[min(attempt, len(_BACKOFF_S)) - 1] if attempt else 0
            if "terminated" in run.state:
                run.restarts += 1
                run.last = run.state
                reason = "CrashLoopBackOff" if wait else "ContainerCreating"
                run.state = {"waiting": {"reason": reason, "message": f"restart in {wait} s"}}
            self._changed.set()
            await asyncio.sleep(wait)
            if self._over:
                return code

    async def _once(self, run: Run) -> int:
        """Run a container from its start to its end and return its exit code."""
        begun = now()
        try:
            run.process = await start(self._surroundings, run.spec, run.image)
        except Exception as error:
            _LOG.warning("%s/%s cannot start: %s", self.name, run.name, error)
            message = str(error)[:500]
            run.state = {"waiting": {"reason": "CreateContainerError", "message": message}}
            self._changed.set()
            return _CANNOT_START
        run.state = {"running": {"startedAt": begun}}
        probes = asyncio.create_task(self._watch_health(run))
        self._changed.set()
        try:
            code = await run.process.wait()
        finally:
            probes.cancel()
        run.process = None
        run.ready = run.started = False
        run.state = {
            "terminated": {
                "exitCode": code,
                "reason": "Error" if code else "Completed",
                "startedAt": begun,
                "finishedAt": now(),
            }
        }
        if not code and run in self._init and not _is_sidecar(run):
            run.ready = True
        self._changed.set()
        return code

    async def _watch_health(self, run: Run) -> None:
        """postStart hook, then the startup probe, then readiness and liveness side by side."""
        hook = (run.spec.get("lifecycle") or {}).get("postStart")
        if hook and "exec" in hook and await self.execute(run, hook["exec"]["command"]):
            _LOG.warning("%s/%s: postStart failed, container is restarted", self.name, run.name)
            self._kill(run)
            return
        startup = self._probe(run, "startupProbe")
        if startup:
            period = startup.seconds("periodSeconds", 10)
            patience = time.monotonic() + period * startup.count("failureThreshold", 3)
            while not await startup.once():
                if time.monotonic() > patience:
                    self._kill(run)
                    return
                await asyncio.sleep(min(period, _EAGER_S))
        run.started = True
        run.ready = self._probe(run, "readinessProbe") is None
        run.up.set()
        self._changed.set()
        await asyncio.gather(self._watch_readiness(run), self._watch_liveness(run))

    async def _watch_readiness(self, run: Run) -> None:
        probe = self._probe(run, "readinessProbe")
        if probe is None:
            return
        await asyncio.sleep(probe.seconds("initialDelaySeconds", 0))
        failures = successes = 0
        while True:
            if await probe.once():
                failures, successes = 0, successes + 1
                ready = run.ready or successes >= probe.count("successThreshold", 1)
            else:
                failures, successes = failures + 1, 0
                ready = run.ready and failures < probe.count("failureThreshold", 3)
            if ready != run.ready:
                run.ready = ready
                self._changed.set()
            # while it is not ready yet, ask more often: a kubelet does the same after a start
            period = probe.seconds("periodSeconds", 10)
            await asyncio.sleep(period if run.ready else min(period, _EAGER_S))

    async def _watch_liveness(self, run: Run) -> None:
        probe = self._probe(run, "livenessProbe")
        if probe is None:
            return
        await asyncio.sleep(probe.seconds("initialDelaySeconds", 0))
        failures = 0
        while True:
            failures = 0 if await probe.once() else failures + 1
            if failures >= probe.count("failureThreshold", 3):
                break
            await asyncio.sleep(probe.seconds("periodSeconds", 10))
        self._kill(run)

    def _probe(self, run: Run, kind: str) -> Probe | None:
        spec = run.spec.get(kind)
        if spec is None:
            return None
        ports = {
            port["name"]: int(port["containerPort"])
            for port in run.spec.get("ports") or []
            if "name" in port
        }

        async def execute(command: list[str]) -> int:
            return await self.execute(run, command)

        return Probe(spec=spec, address=self.address, ports=ports, execute=execute)

    def enter(self, run: Run, command: list[str]) -> list[str]:
        """The command line that runs `command` inside a container, as its user.

        Raises:
            ProcessLookupError: the container is not running.
        """
        if run.process is None:
            raise ProcessLookupError(f"container {run.name} of {self.name} is not running")
        pid = run.process.pid
        status = dict(
            line.split(":\t", 1)
            for line in (_proc(pid) / "status").read_text().splitlines()
            if ":\t" in line
        )
        user, group = status["Uid"].split()[0], status["Gid"].split()[0]
        become = (
            []
            if self._surroundings.single_uid
            else ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        )
        environment = (_proc(pid) / "environ").read_bytes().decode().split("\0")[:-1]
        namespaces = ["--mount", "--uts", "--net", f"--root={_proc(pid)}/root", "--wd"]
        return [
            *("nsenter", f"--target={pid}", *namespaces),
            *(*become, "env", "-i", *environment, *command),
        ]

    async def execute(self, run: Run, command: list[str]) -> int:
        """Run a command in a container and return its exit code."""
        process = await asyncio.create_subprocess_exec(
            *self.enter(run, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()

    def _kill(self, run: Run) -> None:
        if run.process is not None:
            run.process.send(signal.SIGKILL)

    def _sysctls(self) -> None:
        """Network sysctls of the pod's securityContext."""
        context = self._pod["spec"].get("securityContext") or {}
        for entry in context.get("sysctls") or []:
            path = "/proc/sys/" + entry["name"].replace(".", "/")
            netns = f"--net={network.netns_path(self._netns)}"
            command = ["nsenter", netns, "sh", "-c", 'echo "$1" > "$2"', "sh"]
            subprocess.run([*command, entry["value"], path], check=True)

    def _write_etc(self) -> None:
        etc = self._folder / "etc"
        etc.mkdir()
        meta = self._pod["metadata"]
        domains = [f"{meta['namespace']}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
        (etc / "resolv.conf").write_text(
            f"search {' '.join(domains)}\nnameserver {DNS_ADDRESS}\noptions ndots:5\n"
        )
        (etc / "hosts").write_text(f"127.0.0.1\tlocalhost\n{self.address}\t{meta['name']}\n")
        (etc / "passwd").write_text(
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n"
            "istio-proxy:x:1337:1337::/tmp:/bin/sh\n"
        )

    async def _write_volumes(self) -> None:
        """Write the volumes, waiting for what is not there yet."""
        while True:
            try:
                await self._volumes.write()
            except (NotYetError, ApiError, OSError, aiohttp.ClientError) as error:
                self._waiting("ContainerCreating", str(error))
                await asyncio.sleep(0.2)
            else:
                self._waiting("PodInitializing", "")
                return

    def _waiting(self, reason: str, message: str) -> None:
        """Say of every container why it does not run yet."""
        for run in self.runs:
            run.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        self._changed.set()

    async def _sync_volumes(self) -> None:
        while True:
            await asyncio.sleep(_VOLUME_SYNC_S)
            try:
                await self._volumes.write()
            except (NotYetError, ApiError, OSError, aiohttp.ClientError) as error:
                _LOG.info("%s: volumes not brought up to date (%s)", self.name, error)

    async def _shut_down(self) -> None:
        """preStop and SIGTERM to the containers, then to the sidecars, last started first."""
        grace = float(self._pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        deadline = time.monotonic() + grace
        await asyncio.gather(*(self._end(run, deadline) for run in self._main))
        for run in reversed(self._init):
            await self._end(run, deadline)
        for task in self._tasks:
            task.cancel()

    async def _end(self, run: Run, deadline: float) -> None:
        if run.process is None:
            return
        hook = (run.spec.get("lifecycle") or {}).get("preStop") or {}
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                if "exec" in hook:
                    await self.execute(run, hook["exec"]["command"])
                elif "sleep" in hook:
                    await asyncio.sleep(float(hook["sleep"]["seconds"]))
        if run.process is not None:
            await run.process.stop(max(0.1, deadline - time.monotonic()))

    def _fail(self, message: str) -> None:
        self._waiting("CreateContainerError", message[:500])

    async def _publish(self) -> None:
        """Report the status whenever it changed."""
        last: Json = {}
        while True:
            await self._changed.wait()
            self._changed.clear()
            status = self.status()
            if status != last:
                last = status
                try:
                    await self._api.merge(f"{self._path}/status", {"status": status})
                except Exception as error:  # the API server may be down for a while: try again
                    _LOG.info("%s: status not reported (%s)", self.name, error)
                    last = {}
                    await asyncio.sleep(0.5)
                    self._changed.set()

    def status(self) -> Json:
        """The pod's status as a kubelet reports it."""
        ready = self._initialized and all(run.ready for run in self._main)
        sidecars = [run for run in self._init if _is_sidecar(run)]
        ready = ready and all(run.ready for run in sidecars)
        ended = [run.state.get("terminated") for run in self._main]
        phase = "Running" if self._initialized else "Pending"
        if all(ended):
            codes = [int(end["exitCode"]) for end in ended if end]
            phase = "Failed" if any(codes) else "Succeeded"
        if self._failed:
            phase = "Failed"

        def condition(kind: str, *, true: bool) -> Json:
            previous = next((c for c in self._conditions if c["type"] == kind), {"status": None})
            value = "True" if true else "False"
            if previous["status"] == value:
                return previous
            return {"type": kind, "status": value, "lastTransitionTime": now()}

        self._conditions = [
            condition("PodScheduled", true=True),
            condition("PodReadyToStartContainers", true=bool(self.address)),
            condition("Initialized", true=self._initialized),
            condition("ContainersReady", true=ready),
            condition("Ready", true=ready),
        ]
        return {
            "phase": phase,
            "startTime": self._started_at,
            "hostIP": NODE_ADDRESS,
            "hostIPs": [{"ip": NODE_ADDRESS}],
            "podIP": self.address,
            "podIPs": [{"ip": self.address}] if self.address else [],
            "conditions": self._conditions,
            "initContainerStatuses": [run.status() for run in self._init],
            "containerStatuses": [run.status() for run in self._main],
        }


def _is_sidecar(run: Run) -> bool:
    """An init container that runs beside the application (a native sidecar)."""
    return bool(run.spec.get("restartPolicy") == "Always")


def _proc(pid: int) -> Path:
    return Path(f"/proc/{pid}")
