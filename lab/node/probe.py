"""Probes: startup, readiness and liveness, as a kubelet runs them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lab.node.api import Json

_OK = range(200, 400)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One probe of one container."""

    spec: Json
    """As in the pod: httpGet, tcpSocket or exec, and its times."""

    address: str
    """The pod's address."""

    ports: dict[str, int]
    """Container ports by name."""

    execute: Callable[[list[str]], Awaitable[int]] | None = None
    """Runs a command in the container and gives its exit code; None where none can be run."""

    def seconds(self, key: str, default: int) -> float:
        """One of the probe's times, e.g. `periodSeconds`."""
        return float(self.spec.get(key) or default)

    def count(self, key: str, default: int) -> int:
        """One of the probe's thresholds, e.g. `failureThreshold`."""
        return int(self.spec.get(key) or default)

    async def once(self) -> bool:
        """Whether the container answers now."""
        try:
            async with asyncio.timeout(self.seconds("timeoutSeconds", 1)):
                return await self._ask()
        except (TimeoutError, OSError, aiohttp.ClientError):
            return False

    async def _ask(self) -> bool:
        if "httpGet" in self.spec:
            action = self.spec["httpGet"]
            scheme = action.get("scheme", "HTTP").lower()
            host = action.get("host") or self.address
            url = f"{scheme}://{host}:{self._port(action['port'])}{action.get('path') or '/'}"
            headers = {h["name"]: h["value"] for h in action.get("httpHeaders") or []}
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, headers=headers, ssl=False, allow_redirects=False) as answer,
            ):
                return answer.status in _OK
        if "exec" in self.spec and self.execute:
            return await self.execute(self.spec["exec"]["command"]) == 0
        action = self.spec.get("tcpSocket") or self.spec.get("grpc") or {}
        _, writer = await asyncio.open_connection(self.address, self._port(action["port"]))
        writer.close()
        return True

    def _port(self, port: int | str) -> int:
        return self.ports[port] if isinstance(port, str) and port in self.ports else int(port)
