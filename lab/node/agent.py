"""The node agent: one node, the pods bound to it, the Services they reach."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import aiohttp

from lab.cluster import SIMULATED
from lab.node import dns, network, server
from lab.node.api import ApiError
from lab.node.loopback import LoopbackPod
from lab.node.pod import Pod, now
from lab.sandbox import NODE_ADDRESS, Isolation

if TYPE_CHECKING:
    from lab.node.api import Api, Json
    from lab.node.images import Image, Images
    from lab.paths import LabPaths

_LOG = logging.getLogger("lab.node")

NODE = "lab"
"""Name of the only node."""

_RETRY_S = 0.5

_LABELS = {"hostname": NODE, "os": "linux", "arch": "amd64"}


class Agent:
    """Runs the pods of the node until it is cancelled."""

    def __init__(self, api: Api, paths: LabPaths, images: Images, isolation: Isolation) -> None:
        self._api = api
        self._paths = paths
        self._images = images
        self._isolation = isolation
        self._addresses = network.AddressPool()
        self._dns = dns.Server()
        self._services: dict[str, Json] = {}
        self._slices: dict[str, Json] = {}
        self._pods: dict[str, Pod | LoopbackPod] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def register(self) -> None:
        """Make the node and report it ready."""
        if self._isolation is not Isolation.NONE:
            await asyncio.to_thread(network.prepare_services)
        labels = {f"kubernetes.io/{k}": v for k, v in _LABELS.items()}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}
        await self._api.request("POST", "/api/v1/nodes", node)
        await self._api.merge(f"/api/v1/nodes/{NODE}/status", {"status": node_status()})

    def find(self, namespace: str, name: str) -> Pod | None:
        """A pod that runs as processes in a network of its own."""
        for pod in self._pods.values():
            if isinstance(pod, Pod) and pod.name == f"{namespace}/{name}":
                return pod
        return None

    async def run(self) -> None:
        """Follow pods and Services for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_pods())
            if self._isolation is not Isolation.NONE:
                group.create_task(self._follow_services())

    def ingress(self) -> tuple[str, int] | None:
        """Where the ingress gateway's Service listens for HTTP; None while there is none."""
        for service in self._services.values():
            labels = service["metadata"].get("labels") or {}
            if labels.get("istio") == "ingressgateway":
                return service["spec"]["clusterIP"], 80
        return None

    async def stop(self) -> None:
        """End every pod's processes. In a sandbox the kernel does that as well."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow_pods(self) -> None:
        path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}"
        async for kind, pod in self._api.follow(path):
            uid = pod["metadata"]["uid"]
            running = self._pods.get(uid)
            if running is not None:
                if kind == "DELETED" or "deletionTimestamp" in pod["metadata"]:
                    running.stop(pod)
            elif kind != "DELETED":
                await self._admit(pod)

    async def _admit(self, pod: Json) -> None:
        """Run a pod whose images are all known; leave any other one to kwok, marked."""
        meta = pod["metadata"]
        annotations = meta.get("annotations") or {}
        if SIMULATED in annotations:
            return
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        images, unknown = self._known(pod)
        if unknown:
            reason = f"no process can stand for image {', '.join(unknown)}"
            _LOG.info("%s/%s is simulated: %s", meta["namespace"], meta["name"], reason)
            self._keep_task(self._mark(path, reason))
            return
        if "deletionTimestamp" in meta or pod["status"].get("phase") in {"Succeeded", "Failed"}:
            return
        runner = self._runner(pod, images)
        self._pods[meta["uid"]] = runner
        self._keep_task(self._run(meta["uid"], runner))

    def _keep_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _mark(self, path: str, reason: str) -> None:
        """Leave a pod to kwok; tried again until it is marked or gone."""
        while True:
            try:
                await self._api.merge(path, {"metadata": {"annotations": {SIMULATED: reason}}})
            except (ApiError, OSError, aiohttp.ClientError) as error:
                _LOG.info("%s not marked as simulated: %s", path, error)
                await asyncio.sleep(_RETRY_S)
            else:
                return

    def _runner(self, pod: Json, images: dict[str, Image]) -> Pod | LoopbackPod:
        if self._isolation is Isolation.NONE:
            (image,) = images.values()
            return LoopbackPod(self._api, pod, image, self._paths, self._addresses.take())
        meta = pod["metadata"]
        folder = f"{meta['namespace']}_{meta['name']}"
        return Pod(
            self._api,
            pod,
            images,
            folder=self._paths.pods / f"{folder}_{meta['uid'][:8]}",
            logs=self._paths.logs / folder,
            addresses=self._addresses,
            single_uid=self._isolation is Isolation.SINGLE_UID,
        )

    async def _run(self, uid: str, runner: Pod | LoopbackPod) -> None:
        _LOG.info("%s starts", runner.name)
        try:
            await runner.run()
        except Exception:
            _LOG.exception("%s ended badly", runner.name)
        finally:
            del self._pods[uid]
        _LOG.info("%s is gone", runner.name)

    def _known(self, pod: Json) -> tuple[dict[str, Image], list[str]]:
        """The pod's images that are in the table, and the references of those that are not."""
        spec = pod["spec"]
        known: dict[str, Image] = {}
        unknown: list[str] = []
        for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
            image = self._images.find(container["image"], self._isolation)
            if image is None:
                unknown.append(container["image"])
            else:
                known[container["image"]] = image
        return known, unknown

    async def _follow_services(self) -> None:
        """Keep names and rules equal to the Services and their ready endpoints."""
        services, slices = self._services, self._slices
        changed = asyncio.Event()

        async def collect(path: str, into: dict[str, Json]) -> None:
            async for kind, item in self._api.follow(path):
                uid = item["metadata"]["uid"]
                if kind == "DELETED":
                    into.pop(uid, None)
                else:
                    into[uid] = item
                changed.set()

        async def apply() -> None:
            while True:
                await changed.wait()
                changed.clear()
                now_services, now_slices = list(services.values()), list(slices.values())
                self._dns.table = dns.records(now_services, now_slices)
                await asyncio.to_thread(network.apply_services, now_services, now_slices)
                await asyncio.sleep(0.05)  # a burst of changes becomes one

        await self._dns.serve()
        async with asyncio.TaskGroup() as group:
            group.create_task(collect("/api/v1/services", services))
            group.create_task(collect("/apis/discovery.k8s.io/v1/endpointslices", slices))
            group.create_task(apply())


def node_status() -> Json:
    """What the node offers; more memory than there is, because pods only ask and rarely use."""
    resources = {"cpu": "64", "memory": "256Gi", "pods": "500"}
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": NODE_ADDRESS},
            {"type": "Hostname", "address": NODE},
        ],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "LabNodeReady",
                "lastHeartbeatTime": now(),
                "lastTransitionTime": now(),
            }
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": server.PORT}},
        "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        "nodeInfo": {
            "kubeletVersion": "v1.36.2",
            "operatingSystem": "linux",
            "architecture": "amd64",
            "kernelVersion": os.uname().release,
            "osImage": "the lab: pods are processes of this machine",
            "containerRuntimeVersion": "lab://1",
            "kubeProxyVersion": "",
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
        },
    }
