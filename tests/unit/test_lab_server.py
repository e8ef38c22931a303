"""The node's own API, over TLS as the API server calls it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import os
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest
from aiohttp import web

from lab.cluster import SIMULATED, Credentials
from lab.node.container import Process
from lab.node.images import Image
from lab.node.pod import Pod, Run
from lab.node.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

EXEC = "/exec/mesh/web-0/app"
LOGS = "/containerLogs/mesh/web-0/app"

WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol": "v5.channel.k8s.io",
}
SPDY = {"Upgrade": "SPDY/3.1", "Connection": "Upgrade"}


AS_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] * (os.geteuid() == 0)
"""Containers run as another user, where that can be had."""


class FakePod:
    """Two containers: `app` runs, `done` has never started."""

    name = "mesh/web-0"

    def __init__(self, running: Process) -> None:
        image = Image(entrypoint=())
        self.runs = [Run(spec={"name": name}, image=image) for name in ("app", "done")]
        self.runs[0].process = running
        self.runs[0].state = {"running": {}}

    def enter(self, _: Run, command: list[str]) -> list[str]:
        return [*AS_USER, *command]


class Node:
    """A served node with one pod, and a client that may call it."""

    session: aiohttp.ClientSession
    runner: web.AppRunner

    def __init__(self, pod: FakePod, logs: Path, keys: dict[str, Credentials]) -> None:
        self.pod = pod
        self.pods = {pod.name: pod}
        self.logs = logs / "mesh_web-0"
        self.keys = keys
        self.port = 0

    async def read(self, path: str) -> Any:
        """What the API server has."""
        reason = {SIMULATED: "no process can stand for image nginx"}
        pods = {"nginx": {"metadata": {"annotations": reason}}, "pending": {"metadata": {}}}
        assert path.startswith("/api/v1/namespaces/mesh/pods/")
        return pods.get(path.rpartition("/")[2])

    def find(self, namespace: str, name: str) -> Pod | None:
        return cast("Pod | None", self.pods.get(f"{namespace}/{name}"))

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(path) as answer:
            return answer.status, await answer.text()

    @contextlib.asynccontextmanager
    async def exec(
        self, script: str, options: str = "output=1&error=1", *, protocol: str = "v5.channel.k8s.io"
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        query = f"{options}&command=sh&command=-c"
        async with self.session.ws_connect(
            f"{EXEC}?{query}", params={"command": script}, protocols=(protocol,)
        ) as socket:
            yield socket

    async def run(self, script: str, options: str = "output=1&error=1") -> dict[int, bytes]:
        async with self.exec(script, options) as socket:
            return await _rest(socket)


async def _rest(socket: aiohttp.ClientWebSocketResponse) -> dict[int, bytes]:
    """What still comes, by channel."""
    found: dict[int, bytes] = {}
    async for message in socket:
        found[message.data[0]] = found.get(message.data[0], b"") + message.data[1:]
    return found


def _code(found: dict[int, bytes]) -> int:
    """The exit code as client-go reads it."""
    status = json.loads(found[3])
    if status["status"] == "Success":
        return 0
    assert status["reason"] == "NonZeroExitCode"
    (cause,) = status["details"]["causes"]
    assert cause["reason"] == "ExitCode"
    assert cause["message"] != "0"
    return int(cause["message"])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Credentials]:
    """The cluster's certificate, its own CA as well, and a stranger's."""
    folder = tmp_path_factory.mktemp("keys")
    found = {}
    for name in ("cluster", "stranger"):
        key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
        extra = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*command.split(), *extra, *files], check=True, capture_output=True)
        found[name] = Credentials(server="", ca=certificate, certificate=certificate, key=key)
    return found


def client(ca: Credentials, own: Credentials | None, port: int) -> aiohttp.ClientSession:
    tls = ssl.create_default_context(cafile=str(ca.ca))
    if own is not None:
        tls.load_cert_chain(own.certificate, own.key)
    return aiohttp.ClientSession(
        f"https://127.0.0.1:{port}",
        connector=aiohttp.TCPConnector(ssl=tls),
        timeout=aiohttp.ClientTimeout(total=20),
    )


def on_node(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test with a served node, its first argument."""

    async def scenario(keys: dict[str, Credentials], folder: Path, **more: Any) -> None:
        popen = await asyncio.create_subprocess_exec(
            *AS_USER, "sh", "-c", "echo; sleep 60", stdout=subprocess.PIPE, start_new_session=True
        )
        assert popen.stdout
        await popen.stdout.readline()  # from now on it is the other user's
        process = Process(popen)
        node = Node(FakePod(process), folder, keys)
        node.logs.mkdir()
        cluster = keys["cluster"]
        node.runner = await Server(node.find, folder, node.read).serve(cluster, "127.0.0.1", 0)
        node.port = node.runner.addresses[0][1]
        try:
            async with client(cluster, cluster, node.port) as node.session, asyncio.timeout(20):
                await test(node, **more)
        finally:
            await node.runner.cleanup()
            await process.stop(0.1)
            await asyncio.sleep(0.05)  # transports close in the loop's next rounds

    @functools.wraps(test)
    def run(keys: dict[str, Credentials], tmp_path: Path, **more: Any) -> None:
        asyncio.run(scenario(keys, tmp_path, **more))

    # pytest reads fixtures and parameters here
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("keys", "tmp_path")]
    theirs = [*inspect.signature(test).parameters.values()][1:]
    fixtures = inspect.Signature([*(p.replace(kind=own[0].kind) for p in theirs), *own])
    run.__signature__ = fixtures  # type: ignore[attr-defined]
    return run


@on_node
async def test_an_exit_code_is_the_commands(node: Node) -> None:
    assert _code(await node.run("true")) == 0
    assert _code(await node.run("exit 3")) == 3
    assert _code(await node.run("kill -9 $$")) == 137


@on_node
async def test_stdout_and_stderr_are_apart_and_complete(node: Node) -> None:
    found = await node.run("seq 100000; echo oh >&2")
    assert found[1] == b"".join(b"%d\n" % n for n in range(1, 100001))
    assert found[2] == b"oh\n"


@on_node
async def test_what_was_not_asked_for_is_not_sent(node: Node) -> None:
    assert 2 not in await node.run("echo hi; echo oh >&2", "output=1")


@on_node
async def test_an_output_can_be_opened_by_its_path(node: Node) -> None:
    found = await node.run("echo hi > /dev/stdout; echo oh > /dev/stderr")
    assert (found[1], found[2]) == (b"hi\n", b"oh\n")


@on_node
async def test_stdin_arrives_and_ends(node: Node) -> None:
    async with node.exec("cat; echo end", "input=1&output=1") as socket:
        await socket.send_bytes(b"\x00some ")
        await socket.send_str("\x00words\n")  # as the Python client does
        await socket.send_bytes(b"\xff\x00")
        found = await _rest(socket)
    assert found[1] == b"some words\nend\n"
    assert _code(found) == 0


@on_node
async def test_a_command_may_leave_its_stdin_unread(node: Node) -> None:
    async with node.exec("exec <&-; sleep 0.5; exit 4", "input=1&output=1") as socket:
        for _ in range(20):
            await socket.send_bytes(b"\x00" + bytes(20000))
            await asyncio.sleep(0.01)
        assert _code(await _rest(socket)) == 4


@on_node
async def test_without_stdin_there_is_nothing_to_read(node: Node) -> None:
    assert (await node.run("cat; echo end"))[1] == b"end\n"


@on_node
async def test_a_terminal_is_one_and_has_the_clients_size(node: Node) -> None:
    script = "read line; tty; stty size; echo $TERM; exec 3</dev/tty; exit 5"
    async with node.exec(script, "input=1&output=1&tty=1") as socket:
        await socket.send_bytes(b'\x04{"Width": 132, "Height": 43}')
        await socket.send_bytes(b"\x00go\n")
        found = await _rest(socket)
    assert b"/dev/pts/" in found[1]
    assert b"43 132\r\n" in found[1]
    assert b"xterm" in found[1]
    assert _code(found) == 5


@pytest.mark.parametrize("options", ["output=1", "output=1&tty=1"], ids=["pipes", "terminal"])
@on_node
async def test_a_slow_client_gets_everything(
    node: Node, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = web.WebSocketResponse.send_bytes

    async def slowly(self: web.WebSocketResponse, data: bytes) -> None:
        await asyncio.sleep(0.4)
        await send(self, data)

    monkeypatch.setattr(web.WebSocketResponse, "send_bytes", slowly)
    found = await node.run("echo one; sleep 0.1; echo two", options)
    assert found[1].split() == [b"one", b"two"]


@on_node
async def test_version_4_is_understood(node: Node) -> None:
    async with node.exec("exit 6", protocol="v4.channel.k8s.io") as socket:
        assert socket.protocol == "v4.channel.k8s.io"
        assert _code(await _rest(socket)) == 6


async def _pid(socket: aiohttp.ClientWebSocketResponse) -> Path:
    message = await socket.receive_bytes()
    return Path("/proc") / message[1:].decode().strip()


async def _gone(process: Path) -> bool:
    """Whether it ends soon; a dead process may wait for whoever has to fetch its exit code."""
    for _ in range(40):
        try:
            if "State:\tZ" in (process / "status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.mark.parametrize("options", ["output=1", "output=1&tty=1"], ids=["pipes", "terminal"])
@on_node
async def test_a_command_ends_when_its_client_goes(node: Node, options: str) -> None:
    async with node.exec("echo $$; sleep 60", options) as socket:
        process = await _pid(socket)
        assert process.exists()
    assert await _gone(process)


@on_node
async def test_a_closed_websocket_is_an_end_too(node: Node) -> None:
    async with node.exec("echo $$; sleep 60") as socket:
        process = await _pid(socket)
        await socket._writer.close()  # the message alone: it is the server that hangs up
        assert await _gone(process)


@pytest.mark.parametrize("message", [b"", b"\x04nonsense"], ids=["empty", "bad-size"])
@on_node
async def test_a_message_without_sense_is_an_end(node: Node, message: bytes) -> None:
    async with node.exec("echo $$; sleep 60", "output=1&tty=1") as socket:
        process = await _pid(socket)
        await socket.send_bytes(message)
        assert await _gone(process)


@on_node
async def test_a_command_ends_with_its_container(node: Node) -> None:
    async with node.exec("echo $$; sleep 60") as socket:
        process = await _pid(socket)
        running = node.pod.runs[0].process
        assert running is not None
        await running.stop(0.1)
        assert _code(await _rest(socket)) == 137
    assert await _gone(process)


@on_node
async def test_a_command_ends_with_the_server(node: Node) -> None:
    async with node.exec("echo $$; sleep 60") as socket:
        process = await _pid(socket)
        await node.runner.cleanup()
        assert await _gone(process)


@on_node
async def test_a_command_leaves_nothing_behind(node: Node) -> None:
    found = await node.run("sleep 60 & echo $!")
    assert await _gone(Path("/proc") / found[1].decode().strip())


@on_node
async def test_only_a_running_container_can_be_entered(node: Node) -> None:
    path, refusal = "/exec/mesh/web-0/done?command=true&output=1", "container done is not running"
    async with node.session.get(path, headers=WEBSOCKET) as answer:
        assert (answer.status, await answer.text()) == (400, refusal)
    # kubectl then tries SPDY, and what it shows is this answer
    async with node.session.post(path, headers=SPDY) as answer:
        assert (answer.status, await answer.text()) == (400, refusal)


@on_node
async def test_what_speaks_no_websocket_is_told_so(node: Node) -> None:
    async with node.session.post(f"{EXEC}?command=true", headers=SPDY) as answer:
        assert answer.status == 400
        assert "v5.channel.k8s.io" in await answer.text()


@pytest.mark.parametrize(
    ("pod", "status", "text"),
    [
        ("web-0/nope", 404, "pod mesh/web-0 has no container nope"),
        ("nginx/app", 400, "pod mesh/nginx is simulated: no process can stand for image nginx"),
        ("pending/app", 400, "pod mesh/pending is not running on the node now"),
        ("nope/app", 404, "there is no pod mesh/nope"),
    ],
)
@pytest.mark.parametrize("kind", ["containerLogs", "exec"])
@on_node
async def test_a_refusal_says_why(
    node: Node, *, kind: str, pod: str, status: int, text: str
) -> None:
    assert await node.get(f"/{kind}/mesh/{pod}") == (status, text)


@on_node
async def test_a_log_is_given_whole_or_its_end(node: Node) -> None:
    assert await node.get(LOGS) == (400, "container app has no log yet")
    log = node.logs / "app.log"
    log.touch()
    assert await node.get(f"{LOGS}?tailLines=3") == (200, "")
    log.write_text("one\ntwo\n\nfour")
    for query, expected in {
        "": "one\ntwo\n\nfour",
        "tailLines=0": "",
        "tailLines=1": "four",
        "tailLines=3": "two\n\nfour",
        "tailLines=9": "one\ntwo\n\nfour",
        "limitBytes=5": "one\nt",
        "tailLines=3&limitBytes=2": "tw",
    }.items():
        assert await node.get(f"{LOGS}?{query}") == (200, expected), query
    log.write_bytes(b"x" * 200000)
    assert await node.get(LOGS) == (200, "x" * 200000)


@on_node
async def test_earlier_runs_are_not_told_apart(node: Node) -> None:
    status, text = await node.get(f"{LOGS}?previous=true")
    assert status == 400
    assert "same log" in text


@on_node
async def test_following_goes_on_over_a_restart_and_ends_with_the_pod(node: Node) -> None:
    log = node.logs / "app.log"
    log.write_text("old\none\n")
    async with node.session.get(f"{LOGS}?follow=true&tailLines=1") as answer:
        assert await answer.content.readline() == b"one\n"
        node.pod.runs[0].process = None
        node.pod.runs[0].state = {"waiting": {"reason": "CrashLoopBackOff"}}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer.content.readline(), 0.5)
        with log.open("a") as file:
            file.write("two\n")
        assert await answer.content.readline() == b"two\n"
        with log.open("a") as file:
            file.write("last\n")
        node.pods.clear()
        assert await answer.content.read() == b"last\n"


@on_node
async def test_following_ends_with_a_container_that_is_not_started_again(node: Node) -> None:
    (node.logs / "app.log").write_text("one\n")
    node.pod.runs[0].state = {"terminated": {"exitCode": 0}}
    assert await node.get(f"{LOGS}?follow=true") == (200, "one\n")


@on_node
async def test_following_ends_when_the_client_goes(node: Node) -> None:
    log = node.logs / "app.log"
    log.write_text("one\n")

    def readers() -> int:
        files = Path("/proc/self/fd").iterdir()
        return sum(os.path.realpath(file) == str(log) for file in files)

    answer = await node.session.get(f"{LOGS}?follow=true")
    assert await answer.content.readline() == b"one\n"
    assert readers() == 1
    answer.close()
    for _ in range(40):
        if not readers():
            return
        await asyncio.sleep(0.05)
    pytest.fail("the log is still read")


@on_node
async def test_only_logs_and_exec_are_served(node: Node) -> None:
    assert await node.get("/healthz") == (200, "ok")
    status, text = await node.get("/portForward/mesh/web-0")
    assert status == 501
    assert "not /portForward" in text


@pytest.mark.parametrize("who", ["nobody", "stranger"])
@on_node
async def test_only_the_clusters_own_may_call(node: Node, who: str) -> None:
    async with client(node.keys["cluster"], node.keys.get(who), node.port) as session:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await session.get("/healthz")
