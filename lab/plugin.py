"""How a stand-in for a plugin of Pulumi's is served."""

from __future__ import annotations

import os
import signal

import grpc


def serve(server: grpc.Server) -> None:
    """Serve on a free loopback port, whose number is the first line printed, until stopped.

    The end of the CLI is a stop, too: one that is killed tells nobody.
    """
    engine = os.getppid()
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    # the CLI gives a plugin that ignores SIGINT two times 5 s before it kills it
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    while os.getppid() == engine:
        server.wait_for_termination(timeout=1)
