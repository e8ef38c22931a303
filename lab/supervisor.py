"""The first process in the sandbox: starts the lab, keeps it, and takes it along when it ends."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from lab import cluster
from lab.node.agent import Agent
from lab.node.api import Api
from lab.node.images import PROGRAMS, Images
from lab.node.loopback import pump, serve_egress
from lab.node.server import Server
from lab.paths import LabPaths
from lab.sandbox import Isolation, prepare_network, run
from lab.toolchain import Tools, ensure

TOOLS = (*cluster.TOOLS, *PROGRAMS, "envoy_bootstrap.json")
"""Programs of the control plane, and those that the node agent starts."""

_LOOKS_EVERY_S = 2

_LOG = logging.getLogger("lab")


def main() -> None:
    """Run the lab until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--isolation", type=Isolation, required=True)
    parser.add_argument("--api", type=int, required=True, help="open socket for the API server")
    parser.add_argument("--ingress", type=int, required=True, help="open socket for the gateway")
    parser.add_argument("--lock", type=int, required=True, help="open lock file, held till the end")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
    if os.getpid() == 1:
        _become_init()
    fcntl.flock(arguments.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    listeners = [socket.socket(fileno=fd) for fd in (arguments.api, arguments.ingress)]
    # an ordinary end, so that what was started without namespaces is stopped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        asyncio.run(_run(LabPaths(state=arguments.state), arguments.isolation, *listeners))
    except Exception as error:
        _LOG.exception("the lab ends")
        print(f"lab: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _become_init() -> None:
    """Fork; the parent stays process 1 and only reaps, as an init does. Returns in the child."""
    child = os.fork()
    if child == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


async def _run(
    paths: LabPaths, isolation: Isolation, listener: socket.socket, ingress: socket.socket
) -> None:
    # no network here: what could be had is there already
    tools = ensure(TOOLS, obtain=False)
    port: int = listener.getsockname()[1]
    facts = {"port": port, "ingress": ingress.getsockname()[1], "isolation": isolation.value}
    if isolation is Isolation.NONE:
        listener.close()  # the API server itself takes the port
        ingress.close()
        await serve_egress(paths.egress)
    else:
        prepare_network()
        # kwokctl writes this machine's addresses into the API server's certificate
        run("ip", "address", "add", f"{cluster.KUBERNETES_SERVICE}/32", "dev", "lo")
    credentials = await asyncio.to_thread(
        cluster.create, paths, tools, port=port, isolation=isolation
    )
    api = Api(credentials)
    agent = Agent(api, paths, Images(tools), isolation)
    try:
        await agent.register()
        if isolation is not Isolation.NONE:
            await Server(agent.find, paths.logs, api.find).serve(credentials)
            await _forward(listener, lambda: ("127.0.0.1", port))
            await _forward(ingress, agent.ingress)
        cluster.write_kubeconfig(paths.kubeconfig, credentials)
        paths.facts.with_suffix(".new").write_text(json.dumps(facts))
        paths.facts.with_suffix(".new").rename(paths.facts)
        _LOG.info("the lab is ready on port %d", port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_keep(paths, tools))
            tasks.create_task(agent.run())
    finally:
        await agent.stop()
        await api.close()
        if isolation is Isolation.NONE:
            cluster.delete(paths, tools)


async def _keep(paths: LabPaths, tools: Tools) -> None:
    """Start what ended of the control plane.

    On a slow machine controller-manager and scheduler give up on an API server that is late.
    """
    while True:
        if ended := cluster.ended(paths):
            _LOG.warning("ended, and started again: %s", ", ".join(ended))
            await asyncio.to_thread(cluster.revive, paths, tools)
        await asyncio.sleep(_LOOKS_EVERY_S)


async def _forward(
    listener: socket.socket, target: Callable[[], tuple[str, int] | None]
) -> asyncio.Server:
    """Carry connections from a loopback port of the host to an address inside the sandbox."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = target()
        if address is None:
            writer.close()
            return
        try:
            inner_reader, inner_writer = await asyncio.open_connection(*address)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    return await asyncio.start_server(carry, sock=listener)


if __name__ == "__main__":
    main()
