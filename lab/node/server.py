"""The node's own API: what the API server calls for `kubectl logs` and `kubectl exec`.

Paths and protocols are a kubelet's. Exec is a WebSocket that the API server passes on as it is.
`kubectl port-forward` speaks SPDY, inside a WebSocket too, and there is no SPDY here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import termios
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from lab.cluster import SIMULATED
from lab.sandbox import NODE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lab.cluster import Credentials
    from lab.node.api import Json
    from lab.node.container import Process
    from lab.node.pod import Pod, Run

PORT = 10250
"""A kubelet's port; the node's status has to name it."""

_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
"""Both say in a message's first byte what it is for; only v5 can close stdin."""

_STDIN, _STDOUT, _STATUS, _RESIZE, _CLOSE = 0, 1, 3, 4, 255
_STREAMS = ("input", "output", "error")
"""Query parameters that ask for channels 0, 1 and 2."""

_CHUNK, _POLL_S = 65536, 0.1


@dataclass(frozen=True, slots=True)
class Server:
    """Serves logs and exec of the node's pods."""

    pods: Callable[[str, str], Pod | None]
    """Namespace, name -> the pod, if it runs as processes."""

    logs: Path
    """Has a folder `<namespace>_<name>` with `<container>.log` for each pod."""

    read: Callable[[str], Awaitable[Json | None]]
    """Gives the API server's object of a path, to say why a pod does not run."""

    async def serve(
        self, credentials: Credentials, address: str = NODE_ADDRESS, port: int = PORT
    ) -> web.AppRunner:
        """Listen, until the `cleanup` of what is returned.

        Pods reach the node's address too. They have no certificate of the cluster's CA, and who
        has none is not let in.
        """
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(credentials.ca))
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_cert_chain(credentials.certificate, credentials.key)
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        # refused, kubectl tries again with a POST (SPDY), and shows that answer
        app.router.add_route("*", "/exec/{namespace}/{pod}/{container}", self._exec)
        app.router.add_route("*", "/{other:.*}", _other)
        # a client that goes away ends its handler, even if there is nothing to send to it
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, address, port, ssl_context=tls).start()
        return runner

    async def _find(self, request: web.Request) -> tuple[Pod, Run]:
        """The pod and container of a request, or a refusal: 400, of a 404 kubectl shows no text."""
        at = request.match_info
        name = f"{at['namespace']}/{at['pod']}"
        pod = self.pods(at["namespace"], at["pod"])
        if pod is None:
            known = await self.read(f"/api/v1/namespaces/{at['namespace']}/pods/{at['pod']}")
            if known is None:
                raise web.HTTPNotFound(text=f"there is no pod {name}")
            reason = (known["metadata"].get("annotations") or {}).get(SIMULATED)
            what = f"is simulated: {reason}" if reason else "is not running on the node now"
            raise web.HTTPBadRequest(text=f"pod {name} {what}")
        for run in pod.runs:
            if run.name == at["container"]:
                return pod, run
        raise web.HTTPNotFound(text=f"pod {name} has no container {at['container']}")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        """A container's log. It has no times: sinceSeconds and timestamps change nothing."""
        pod, run = await self._find(request)
        query = request.query
        if query.get("previous") == "true":
            raise web.HTTPBadRequest(text="earlier runs are in the same log, without --previous")
        path = self.logs / pod.name.replace("/", "_") / f"{run.name}.log"
        if not path.exists():
            raise web.HTTPBadRequest(text=f"container {run.name} has no log yet")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        left = int(query.get("limitBytes", 2**63))
        with path.open("rb") as log:
            if "tailLines" in query:
                log.seek(-sum(map(len, deque(log, int(query["tailLines"])))), os.SEEK_CUR)
            while left:
                # asked before reading: what a container wrote last is in the log once it has ended
                living = "terminated" not in run.state and self.pods(*pod.name.split("/")) is pod
                if data := log.read(min(left, _CHUNK)):
                    left -= len(data)
                    await response.write(data)
                elif living and query.get("follow") == "true":
                    await asyncio.sleep(_POLL_S)
                else:
                    break
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        pod, run = await self._find(request)
        command = request.query.getall("command")
        options = {name for name, value in request.query.items() if value == "1"}
        if "tty" in options:
            command = ["env", "TERM=xterm", *command]
        if run.process is None:
            raise web.HTTPBadRequest(text=f"container {run.name} is not running")
        socket = web.WebSocketResponse(protocols=_PROTOCOLS, timeout=2)
        if not socket.can_prepare(request).protocol:
            raise web.HTTPBadRequest(text=f"exec needs a WebSocket with {' or '.join(_PROTOCOLS)}")
        session = _Session(socket, options, run.process)
        command = pod.enter(run, command)
        await socket.prepare(request)
        code = await session.run(command)
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes([_STATUS]) + json.dumps(_status(code)).encode())
            await socket.close()
        return socket


class _End(asyncio.StreamReaderProtocol):
    """Our end of a stream. A terminal ends with an error, which would discard what is unread."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        super().__init__(self.reader)

    def connection_lost(self, _: Exception | None) -> None:
        super().connection_lost(None)


@dataclass
class _Session:
    """A command in a container, its standard streams carried over a WebSocket."""

    socket: web.WebSocketResponse
    options: set[str]
    container: Process
    ours: list[int] = field(default_factory=list)

    async def run(self, command: list[str]) -> int:
        """The command's exit code. It lives no longer than the connection and the container."""
        process = await self._start(command)
        sending = asyncio.gather(*(self._send(n) for n in range(1, len(self.ours))))
        others = (self._receive(), process.wait(), self.container.wait())
        tasks: list[asyncio.Future[Any]] = [sending, *map(asyncio.ensure_future, others)]
        try:
            await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
            # a container has no process ids of its own: nobody else ends what was started in it
            _kill(process)
            await asyncio.wait({sending})
        finally:
            _kill(process)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        code = await process.wait()
        return code if code >= 0 else 128 - code

    async def _start(self, command: list[str]) -> asyncio.subprocess.Process:
        user = Path(f"/proc/{self.container.pid}").stat().st_uid
        if tty := "tty" in self.options:
            terminal, inner = os.openpty()
            self.ours, theirs = [os.dup(terminal), terminal], [inner, inner, inner]
            command = ["setsid", "--ctty", *command]
        else:
            (read, stdin), (stdout, write), (stderr, errors) = os.pipe(), os.pipe(), os.pipe()
            self.ours, theirs = [stdin, stdout, stderr], [read, write, errors]
        for stream in theirs:
            os.fchown(stream, user, -1)  # programs open /dev/stdout again, by its path
        input_, output, error = theirs
        process = await asyncio.create_subprocess_exec(
            *command, stdin=input_, stdout=output, stderr=error, start_new_session=not tty
        )
        for stream in set(theirs):
            os.close(stream)
        return process

    async def _send(self, channel: int) -> None:
        """Carry an output of the command to the client, until it ends."""
        pipe = os.fdopen(self.ours[channel], "rb", 0)
        transport, end = await asyncio.get_running_loop().connect_read_pipe(_End, pipe)
        with contextlib.closing(transport):
            while data := await end.reader.read(_CHUNK):
                if _STREAMS[channel] in self.options:
                    await self.socket.send_bytes(bytes([channel]) + data)

    async def _receive(self) -> None:
        """Carry what the client sends to the command, until the connection ends."""
        pipe, loop = os.fdopen(self.ours[_STDIN], "wb", 0), asyncio.get_running_loop()
        transport, end = await loop.connect_write_pipe(_End, pipe)
        with contextlib.closing(asyncio.StreamWriter(transport, end, None, loop)) as stdin:
            if "input" not in self.options:
                stdin.close()
            async for message in self.socket:
                data = message.data.encode() if message.type is WSMsgType.TEXT else message.data
                channel, payload = data[0], data[1:]
                if channel == _CLOSE:
                    stdin.close()
                elif channel == _RESIZE and "tty" in self.options:
                    size = json.loads(payload)
                    termios.tcsetwinsize(self.ours[_STDOUT], (size["Height"], size["Width"]))
                elif channel == _STDIN:
                    stdin.write(payload)
                    with contextlib.suppress(ConnectionError):  # the command reads no more
                        await stdin.drain()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _status(code: int) -> Json:
    """An exit code as a client expects it, a metav1.Status."""
    causes = [{"reason": "ExitCode", "message": str(code)}]
    failure = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
    return failure if code else {"status": "Success"}


async def _other(request: web.Request) -> web.StreamResponse:
    if request.path == "/healthz":
        return web.Response(text="ok")
    raise web.HTTPNotImplemented(text=f"a node of the lab has logs and exec, not {request.path}")
