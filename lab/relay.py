"""Carries connections from a socket of this machine to an address inside the lab.

The lab's node has no `kubectl port-forward`. A socket stays in the network namespace that made it,
so a process in the lab's namespace can take connections from outside.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from lab.node.loopback import pump


async def relay(listener: socket.socket, host: str, port: int) -> None:
    """Carry until the process ends, and say when connections are taken, as kubectl does.

    It ends with its standard input: whoever holds the other end need not live to stop it.
    """

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(host, port)
        except OSError as error:
            print(error, flush=True)
            writer.close()
            return
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(carry, sock=listener)
    print(f"Forwarding from 127.0.0.1:{listener.getsockname()[1]} -> {host}:{port}", flush=True)
    held = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, held.set)
    await held.wait()
    server.close()


if __name__ == "__main__":
    descriptor, to_host, to_port = sys.argv[1:]
    asyncio.run(relay(socket.socket(fileno=int(descriptor)), to_host, int(to_port)))
