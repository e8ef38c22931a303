"""Without namespaces: istiod as a process on loopback, every other pod simulated.

Pod addresses lead nowhere then. The API server reaches istiod's webhooks through an HTTP CONNECT
proxy (its egress selector), which ignores the address and dials the same port on loopback.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
from typing import TYPE_CHECKING

from lab.node.container import Process, variables
from lab.node.pod import now
from lab.node.probe import Probe
from lab.sandbox import NODE_ADDRESS

if TYPE_CHECKING:
    from pathlib import Path

    from lab.node.api import Api, Json
    from lab.node.images import Image
    from lab.paths import LabPaths

_LOG = logging.getLogger("lab.loopback")

_ADDRESSES = {
    "--httpAddr": "127.0.0.1:8080",
    "--httpsAddr": "127.0.0.1:15017",
    "--grpcAddr": "127.0.0.1:15010",
    "--secureGRPCAddr": "127.0.0.1:15012",
    "--monitoringAddr": "127.0.0.1:15014",
}
"""Where istiod listens, in place of every address of a pod of its own."""


class LoopbackPod:
    """The pod of istiod, as a process of this machine."""

    def __init__(self, api: Api, pod: Json, image: Image, paths: LabPaths, address: str) -> None:
        meta = pod["metadata"]
        self.name = f"{meta['namespace']}/{meta['name']}"
        self._path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._api = api
        self._pod = pod
        self._program = image.programs["pilot-discovery"]
        self._paths = paths
        self._address = address
        self._stopping = asyncio.Event()

    def stop(self, pod: Json) -> None:
        """Begin the pod's end."""
        self._pod["metadata"] |= pod["metadata"]
        self._stopping.set()

    async def run(self) -> None:
        """Keep istiod running until the pod is deleted."""
        stopping = asyncio.create_task(self._stopping.wait())
        while not stopping.done():
            process = await self._start()
            ready = asyncio.create_task(self._report())
            ended = asyncio.create_task(process.wait())
            try:
                await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
                await process.stop(5)
        uid = self._pod["metadata"]["uid"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        await self._api.request("DELETE", self._path, body)

    async def _start(self) -> Process:
        (container,) = self._pod["spec"]["containers"]
        arguments = [a for a in container["args"] if a.partition("=")[0] not in _ADDRESSES]
        folder = self._paths.pods / self._pod["metadata"]["uid"]
        folder.mkdir(parents=True, exist_ok=True)
        log = self._paths.logs / self.name.replace("/", "_") / f"{container['name']}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                *(f"{flag}={address}" for flag, address in _ADDRESSES.items()),
                cwd=folder,  # istiod's paths are relative to where it runs
                env={**variables(self._pod, container, {}), "KUBECONFIG": str(self._kubeconfig())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Process(process)

    def _kubeconfig(self) -> Path:
        return self._paths.kubeconfig.resolve()

    async def _report(self) -> None:
        """Say that the pod is ready once istiod answers its own probe."""
        (container,) = self._pod["spec"]["containers"]
        probe = Probe(
            spec={**container["readinessProbe"], "timeoutSeconds": 2},
            address="127.0.0.1",
            ports={},
        )
        while not await probe.once():
            await asyncio.sleep(0.2)
        conditions = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        status = {
            "phase": "Running",
            "startTime": now(),
            "hostIP": NODE_ADDRESS,
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": now()} for kind in conditions
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": True,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": now()}},
                }
            ],
        }
        await self._api.merge(f"{self._path}/status", {"status": status})


async def serve_egress(socket: Path) -> asyncio.Server:
    """Serve HTTP CONNECT for the API server: every address is loopback."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            port = int(head.split(b" ", 2)[1].rpartition(b":")[2])
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            _LOG.info("egress: %s", error)
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    return await asyncio.start_unix_server(carry, path=socket)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy what comes in to the other side until it ends."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
