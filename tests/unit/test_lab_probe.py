"""Probes against servers on loopback: what counts as an answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from lab.node.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOOPBACK = "127.0.0.1"


def _probe(
    ports: dict[str, int] | None = None,
    execute: Callable[[list[str]], Awaitable[int]] | None = None,
    **spec: Any,
) -> Probe:
    # long enough for a busy machine; only what never answers is given less
    spec = {"timeoutSeconds": 20, **spec}
    return Probe(spec=spec, address=LOOPBACK, ports=ports or {}, execute=execute)


class Page:
    """An HTTP server on a free port."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[web.Request] = []
        self.hangs = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        if request.path == "/hangs":
            await self.hangs.wait()
            return web.Response()
        location = {"Location": "/404"} if request.path.startswith("/3") else {}
        return web.Response(status=int(request.path[1:] or 200), headers=location)


def on_page(test: Callable[[Page], Awaitable[None]]) -> None:
    """Run a scenario beside an HTTP server."""

    async def scenario() -> None:
        page = Page()
        application = web.Application()
        application.router.add_get("/{path:.*}", page.answer)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, 0).start()
        page.port = runner.addresses[0][1]
        try:
            async with asyncio.timeout(20):
                await test(page)
        finally:
            page.hangs.set()
            await runner.cleanup()

    asyncio.run(scenario())


async def _free_port() -> int:
    """A port where nobody listens."""
    server = await asyncio.start_server(lambda *_: None, LOOPBACK, 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


def test_2xx_and_3xx_are_ok_and_4xx_and_5xx_are_not() -> None:
    async def scenario(page: Page) -> None:
        statuses = (200, 204, 299, 301, 302, 307, 399, 400, 401, 404, 500, 503)
        passed = [
            status
            for status in statuses
            if await _probe(httpGet={"port": page.port, "path": f"/{status}"}).once()
        ]
        assert passed == [200, 204, 299, 301, 302, 307, 399]

    on_page(scenario)


def test_a_redirect_is_not_followed() -> None:
    async def scenario(page: Page) -> None:
        assert await _probe(httpGet={"port": page.port, "path": "/302"}).once()
        assert [request.path for request in page.requests] == ["/302"]

    on_page(scenario)


def test_the_path_is_the_root_and_the_address_the_pods_unless_named() -> None:
    async def scenario(page: Page) -> None:
        headers = [{"name": "X-Probe", "value": "readiness"}]
        assert await _probe(httpGet={"port": page.port, "httpHeaders": headers}).once()
        (request,) = page.requests
        assert request.path == "/"
        assert request.host == f"{LOOPBACK}:{page.port}"
        assert request.headers["X-Probe"] == "readiness"
        action = {"port": page.port, "host": LOOPBACK}
        elsewhere = Probe(spec={"httpGet": action, "timeoutSeconds": 20}, address="", ports={})
        assert await elsewhere.once()

    on_page(scenario)


def test_a_server_that_does_not_answer_in_time_has_failed() -> None:
    async def scenario(page: Page) -> None:
        probe = _probe(httpGet={"port": page.port, "path": "/hangs"}, timeoutSeconds=0.1)
        assert not await probe.once()

    on_page(scenario)


def test_a_port_may_be_named_and_a_number_may_be_text() -> None:
    async def scenario(page: Page) -> None:
        ports = {"http": page.port}
        assert await _probe(ports, httpGet={"port": "http", "path": "/200"}).once()
        assert await _probe(ports, tcpSocket={"port": "http"}).once()
        assert await _probe(httpGet={"port": str(page.port), "path": "/200"}).once()

    on_page(scenario)


def test_https_is_spoken_where_asked_for() -> None:
    async def scenario(page: Page) -> None:
        action = {"port": page.port, "path": "/200"}
        assert await _probe(httpGet={**action, "scheme": "HTTP"}).once()
        assert not await _probe(httpGet={**action, "scheme": "HTTPS"}).once()

    on_page(scenario)


@pytest.mark.parametrize("kind", ["httpGet", "tcpSocket", "grpc"])
def test_nobody_at_the_port_is_a_failure(kind: str) -> None:
    async def scenario() -> None:
        spec: dict[str, Any] = {kind: {"port": await _free_port()}}
        assert not await _probe(**spec).once()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["tcpSocket", "grpc"])
def test_an_open_port_is_enough_for_tcp(kind: str) -> None:
    async def scenario() -> None:
        closed = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.read() == b""  # the probe sends nothing and goes again
            writer.close()
            closed.set()

        server = await asyncio.start_server(silent, LOOPBACK, 0)
        spec: dict[str, Any] = {kind: {"port": server.sockets[0].getsockname()[1]}}
        assert await _probe(**spec).once()
        async with asyncio.timeout(20):
            await closed.wait()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


@pytest.mark.parametrize(("code", "ok"), [(0, True), (1, False), (137, False)])
def test_a_command_is_ok_when_it_ends_with_0(code: int, *, ok: bool) -> None:
    ran: list[list[str]] = []

    async def execute(command: list[str]) -> int:
        ran.append(command)
        return code

    probe = _probe(execute=execute, exec={"command": ["cat", "/healthy"]})
    assert asyncio.run(probe.once()) is ok
    assert ran == [["cat", "/healthy"]]


def test_a_server_that_hangs_up_without_an_answer_has_failed() -> None:
    async def scenario() -> None:
        async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(hangs_up, LOOPBACK, 0)
        port = server.sockets[0].getsockname()[1]
        assert not await _probe(httpGet={"port": port}).once()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_a_probe_has_the_time_that_it_says_and_else_one_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[float] = []

    def timeout(seconds: float) -> asyncio.Timeout:
        given.append(seconds)
        return asyncio.timeout(None)

    async def execute(_: list[str]) -> int:
        return 0

    monkeypatch.setattr("lab.node.probe.asyncio", SimpleNamespace(timeout=timeout))
    for seconds in (7, None):
        probe = _probe(execute=execute, exec={"command": ["true"]}, timeoutSeconds=seconds)
        assert asyncio.run(probe.once())
    assert given == [7, 1]


def test_a_command_that_does_not_end_or_cannot_be_run_has_failed() -> None:
    async def hangs(_: list[str]) -> int:
        await asyncio.Event().wait()
        return 0

    async def cannot(_: list[str]) -> int:
        raise ProcessLookupError("container app is not running")

    async def scenario() -> None:
        spec = {"command": ["true"]}
        async with asyncio.timeout(20):
            assert not await _probe(execute=hangs, exec=spec, timeoutSeconds=0.1).once()
        assert not await _probe(execute=cannot, exec=spec).once()

    asyncio.run(scenario())


def test_times_and_thresholds_have_the_kubelets_defaults_where_absent() -> None:
    probe = _probe(periodSeconds=3, failureThreshold=30, initialDelaySeconds=None)
    assert (probe.seconds("periodSeconds", 10), probe.count("failureThreshold", 3)) == (3.0, 30)
    assert probe.seconds("initialDelaySeconds", 0) == 0
    assert probe.count("successThreshold", 1) == 1
