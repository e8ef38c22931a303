"""Runs one program under the SDK's mocks and prints what it registers: a process of its own.

Started as a script by `render.program`, with the program's folder first on the module path, so that
the code of any checkout runs as itself. For the same reason nothing of the project is imported.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi
from google.protobuf import json_format
from pulumi.runtime import mocks, rpc
from pulumi.runtime.config import set_all_config
from pulumi.runtime.proto import engine_pb2, resource_pb2
from pulumi.runtime.settings import configure
from pulumi.runtime.stack import run_in_stack

if TYPE_CHECKING:
    from pulumi_kubernetes import Provider

SECRET = "[secret]"  # noqa: S105 what the CLI prints in its place
CLUSTER = "components.cluster"
"""The program's module whose `connect` asks a cluster."""

_SIGNATURE = rpc._special_sig_key
_SEVERITIES = {engine_pb2.WARNING: "warning", engine_pb2.ERROR: "error"}
"""What of the program's messages a reader of its preview must know."""


class Unasked:
    """A cluster in which nothing is found, because nothing is asked."""

    def __init__(self, access: Any) -> None:  # noqa: ANN401 the program's own type
        self._access = access

    def provider(self, name: str) -> Provider:
        """The provider that a cluster that answers would give."""
        from pulumi_kubernetes import Provider  # noqa: PLC0415 a second, and not every program's

        return Provider(name, context=self._access.context, kubeconfig=self._access.kubeconfig)

    def __getattr__(self, name: str) -> Callable[..., tuple[()]]:
        """Every question: it passes, and nothing is there."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: ()


class _Mocks(mocks.Mocks):
    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[Any, Any]]:
        return f"{args.name}-id", args.inputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], None]:
        raise pulumi.RunError(f"{args.token} is asked of a plugin, and here is none")


class Recorder(mocks.MockMonitor):
    """Remembers every resource as the state that the CLI would show of it."""

    def __init__(self) -> None:
        super().__init__(_Mocks())
        self.states: dict[str, dict[str, Any]] = {}

    def make_urn(self, parent: str, type_: str, name: str) -> str:
        """As the engine does: the types of all ancestors but the stack."""
        ancestors = parent.split("::")[2] if parent else ""
        qualified = type_ if ancestors in ("", "pulumi:pulumi:Stack") else f"{ancestors}${type_}"
        return f"urn:pulumi:{pulumi.get_stack()}::{pulumi.get_project()}::{qualified}::{name}"

    def GetDeploymentInfo(self, request: Any) -> Any:  # noqa: ANN401 the SDK's
        """What the engine can do; without alias specs the SDK works out the URNs itself."""
        found = super().GetDeploymentInfo(request)  # type: ignore[no-untyped-call]  # the SDK's
        found.supportedFeatures.remove(resource_pb2.RESOURCE_MONITOR_FEATURE_ALIAS_SPECS)
        return found

    def RegisterResource(self, request: Any) -> Any:  # noqa: ANN401 the SDK's
        """One resource of the program."""
        if request.remote:
            raise pulumi.RunError(f"{request.type} is made by its plugin, and here is none")
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]  # the SDK's
        if response.urn in self.states:
            raise pulumi.RunError(f"{response.urn} is there twice")
        for name in request.additionalSecretOutputs:
            # the provider's to make up: what is made of it is then a secret, too
            response.object[name] = {_SIGNATURE: rpc._special_secret_sig, "value": SECRET}
        inputs = _plain(json_format.MessageToDict(request.object))
        if "kind" in inputs and isinstance(inputs.get("metadata", {}), dict):
            # the provider makes a name up where there is none
            inputs["metadata"] = {"name": request.name, **inputs.get("metadata", {})}
        self.states[response.urn] = {
            "urn": response.urn,
            "type": request.type,
            "custom": request.custom,
            "parent": request.parent,
            "protect": request.protect,
            "aliases": sorted(request.aliasURNs),
            "inputs": inputs,
            "outputs": {},
        }
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: ANN401 the SDK's
        """The outputs of a component, or of the stack."""
        self.states[request.urn]["outputs"] = _plain(json_format.MessageToDict(request.outputs))
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]  # the SDK's


class Log(mocks.MockEngine):
    """Remembers what the program says."""

    def __init__(self) -> None:
        super().__init__(None)
        self.said: list[dict[str, str]] = []

    def Log(self, request: Any) -> None:  # noqa: ANN401 the SDK's
        """One message."""
        if severity := _SEVERITIES.get(request.severity):
            self.said.append({"severity": severity, "message": request.message, "urn": request.urn})


def _plain(value: Any) -> Any:  # noqa: ANN401 any JSON
    """A value as it was written; secrets as the CLI prints them. On the wire numbers are floats."""
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == rpc._special_secret_sig:
            return SECRET
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def record(request: dict[str, Any]) -> dict[str, Any]:
    """What the program in the current folder registers with these settings."""
    monitor, engine = Recorder(), Log()
    configure(
        mocks.MockSettings(  # type: ignore[no-untyped-call]  # the SDK's
            monitor=monitor,
            monitor_features=set(monitor.GetDeploymentInfo(None).supportedFeatures),
            engine=engine,
            project=request["project"],
            stack=request["stack"],
            # what only an update would know is unknown, as in the CLI's preview
            dry_run=True,
            organization=None,
            callbacks=None,
        )
    )
    set_all_config(request["config"], request["secret"])
    if importlib.util.find_spec(CLUSTER.partition(".")[0]) and importlib.util.find_spec(CLUSTER):
        vars(importlib.import_module(CLUSTER))["connect"] = Unasked
    asyncio.run(run_in_stack(lambda: _run("__main__.py")))
    states = [monitor.states[urn] for urn in sorted(monitor.states)]
    return {"states": states, "diagnostics": engine.said}


def _run(program: str) -> None:
    runpy.run_path(program, run_name="__main__")


def main() -> int:
    """Read what to run, run it, print what it registered."""
    answer, sys.stdout = sys.stdout, sys.stderr  # the program may print
    sys.path.insert(0, str(Path.cwd()))
    os.environ["PULUMI_ERROR_OUTPUT_STRING"] = "true"
    try:
        found = record(json.load(sys.stdin))
    except pulumi.RunError as error:
        print(error, file=sys.stderr)
        return 1
    except BaseException:  # one that exits has not declared everything either
        traceback.print_exc()
        return 1
    json.dump(found, answer, sort_keys=True)
    return 0


if __name__ == "__main__":
    code = main()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream:
            stream.flush()
    # the SDK's threads leave event loops, and Python would complain of each
    os._exit(code)
