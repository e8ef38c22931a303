#!/usr/bin/env python3
"""Stand-in for `pulumi-language-python`, for the lab only: not Pulumi's official language host.

The official one is only in Pulumi's release archive. The Python SDK contains the same service for
inline programs (`pulumi.automation._server`); this serves it to the real CLI with a program that
runs `__main__.py`, and runs folder plugins (policy packs), which the SDK's does not.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
from concurrent import futures
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import json_format
from pulumi.automation._server import LanguageServer
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

from lab.plugin import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

_MESSAGE_BYTES = 400 << 20
"""The CLI's own limit for one message: a stack's whole state can be in it."""


class Host(LanguageServer):
    """The service the CLI talks to. Requests and answers are Pulumi's own messages."""

    def __init__(self, engine: str) -> None:
        """Remember where the engine listens.

        Args:
            engine: address given on the command line.
        """
        super().__init__(lambda: None)
        self._engine = engine

    def Handshake(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """Nothing to agree on."""
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """A version that no official host has."""
        return plugin_pb2.PluginInfo(version="0.0.1")

    def Run(self, request: Any, context: Any) -> Any:  # noqa: ANN401
        """Run the program's `__main__.py` in this process."""
        folder = request.info.program_directory or request.pwd

        def program() -> None:
            os.chdir(folder)
            sys.path.insert(0, folder)
            runpy.run_path(str(Path(folder) / "__main__.py"), run_name="__main__")

        self.program = program
        if not request.args:
            request.args.append(self._engine)
        result: Any = super().Run(request, context)  # type: ignore[no-untyped-call]  # the SDK's
        if result.error:
            # it has been logged already: ask the CLI not to print it a second time
            result.error, result.bail = "", True
        return result

    def RunPlugin(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: ANN401
        """Run a plugin that is a folder of Python (a policy pack) and pass on what it prints."""
        info = request.info
        options = json_format.MessageToDict(info.options)
        python = Path(info.root_directory) / options.get("virtualenv", "venv") / "bin" / "python"
        if not python.exists():
            context.abort(grpc.StatusCode.UNKNOWN, f"no virtual environment with {python}")
        environment = dict(entry.split("=", 1) for entry in request.env)
        with subprocess.Popen(
            [str(python), "-u", info.program_directory, *request.args],
            cwd=request.pwd or None,
            env=environment or None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            context.add_callback(process.terminate)
            yield from _outputs(process)
            yield language_pb2.RunPluginResponse(exitcode=process.wait())

    def GetProgramDependencies(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """What `pulumi about` lists."""
        found = [
            language_pb2.DependencyInfo(name=package.metadata["Name"], version=package.version)
            for package in metadata.distributions()
            if package.metadata["Name"].lower().startswith("pulumi")
        ]
        return language_pb2.GetProgramDependenciesResponse(dependencies=found)

    def RuntimeOptionsPrompts(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """No questions for `pulumi install`."""
        return language_pb2.RuntimeOptionsResponse()


def _outputs(process: subprocess.Popen[bytes]) -> Iterator[Any]:
    """Whatever a process prints on either stream, as it comes."""
    queue: SimpleQueue[Any] = SimpleQueue()

    def read(stream: Any, name: str) -> None:  # noqa: ANN401
        while chunk := stream.read1(65536):
            queue.put(language_pb2.RunPluginResponse(**{name: chunk}))
        queue.put(None)

    streams = ((process.stdout, "stdout"), (process.stderr, "stderr"))
    for stream, name in streams:
        threading.Thread(target=read, args=(stream, name), daemon=True).start()
    open_streams = len(streams)
    while open_streams:
        message = queue.get()
        if message is None:
            open_streams -= 1
        else:
            yield message


def main() -> None:
    """Serve the engine that the command line names."""
    engine = next((word for word in reversed(sys.argv[1:]) if not word.startswith("-")), "")
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=32),
        options=[("grpc.max_receive_message_length", _MESSAGE_BYTES)],
    )
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(Host(engine), server)
    serve(server)


if __name__ == "__main__":
    main()
