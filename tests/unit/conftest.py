"""A recorder under Pulumi's mocks, and what every deployment must obey.

Mocks alone show neither parents nor dependencies, let the same URN pass twice, and do not miss
outputs that nobody registered; the recorder sees the requests themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks, rpc
from pulumi.runtime.config import CONFIG, set_all_config
from pulumi.runtime.settings import ROOT, get_root_resource
from pulumi.runtime.stack import Stack
from pulumi_kubernetes import Provider

from settings import Settings

PROJECT = "service-mesh"
STACK = "dev"


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """One resource as the program asked for it."""

    urn: str
    type: str
    name: str
    parent: str
    custom: bool
    provider: str
    inputs: Mapping[str, Any]
    dependencies: tuple[str, ...]
    aliases: tuple[str, ...]
    protect: bool
    delete_timeout: str
    hooks: tuple[str, ...]
    """The engine's occasions, e.g. `after_create`, on which something of ours is called."""


@dataclass(slots=True)
class Deployed:
    """Everything a program registered."""

    resources: list[Registered] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    exports: dict[str, Any] = field(default_factory=dict)

    def named(self, name: str) -> Registered:
        """The only resource of that name in Pulumi."""
        found = [one for one in self.resources if one.name == name]
        assert len(found) == 1, f"{name}: {[one.urn for one in found]} of {self.names()}"
        return found[0]

    def names(self) -> set[str]:
        """Names of all resources in Pulumi."""
        return {one.name for one in self.resources}

    def of_kind(self, kind: str) -> list[Registered]:
        """All resources whose type ends in that kind."""
        return [one for one in self.resources if one.type.split(":")[-1] == kind]

    def releases(self) -> dict[str, Registered]:
        """All Helm releases, by their name in Helm."""
        return {one.inputs["name"]: one for one in self.of_kind("Release")}

    def waits_for(self, name: str) -> set[str]:
        """Names of all that must be there before this resource, and goes after it.

        Parents count: a child is registered after its component, and the component waits for its
        own dependencies.
        """
        by_urn = {one.urn: one for one in self.resources}
        seen: set[str] = set()
        todo = [self.named(name).urn]
        while todo:
            here = by_urn.get(todo.pop())
            if here is None:
                continue  # the stack itself
            for urn in (*here.dependencies, here.parent):
                if urn not in seen:
                    seen.add(urn)
                    todo.append(urn)
        return {by_urn[urn].name for urn in seen if urn in by_urn}


def plain(value: Any) -> Any:
    """A value as it was written: on the wire all numbers are floats."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


class _Mocks(mocks.Mocks):
    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[Any, Any]]:
        made_up = {"result": f"made up for {args.name}"} if args.typ.startswith("random:") else {}
        return f"{args.name}-id", {**args.inputs, **made_up}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], None]:
        raise AssertionError(f"the program asks the cluster: {args.token}")


class _Recorder(mocks.MockMonitor):
    def __init__(self, deployed: Deployed) -> None:
        super().__init__(_Mocks())
        self._deployed = deployed

    def make_urn(self, parent: str, type_: str, name: str) -> str:
        # as the engine does: the types of all ancestors but the stack
        ancestors = parent.split("::")[2] if parent else ""
        qualified = type_ if ancestors in ("", "pulumi:pulumi:Stack") else f"{ancestors}${type_}"
        return f"urn:pulumi:{STACK}::{PROJECT}::{qualified}::{name}"

    def RegisterResource(self, request: Any) -> Any:
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]  # the SDK's
        if request.type != "pulumi:pulumi:Stack":
            self._deployed.resources.append(
                Registered(
                    urn=response.urn,
                    type=request.type,
                    name=request.name,
                    parent=request.parent,
                    custom=request.custom,
                    provider=request.provider,
                    inputs=plain(rpc.deserialize_properties(request.object)),
                    dependencies=tuple(sorted(set(request.dependencies))),
                    aliases=tuple(str(one) for one in request.aliases),
                    protect=request.protect,
                    delete_timeout=request.customTimeouts.delete,
                    hooks=tuple(
                        descriptor.name for descriptor, names in request.hooks.ListFields() if names
                    ),
                )
            )
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:
        self._deployed.outputs[request.urn] = plain(rpc.deserialize_properties(request.outputs))
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]  # same


def _check(deployed: Deployed) -> None:
    urns = [one.urn for one in deployed.resources]
    repeated = {urn for urn in urns if urns.count(urn) > 1}
    assert not repeated, f"the engine would refuse the second of {repeated}"
    components = {
        one.urn: one
        for one in deployed.resources
        if not one.custom and one.type.startswith(f"{PROJECT}:")
    }
    silent = {urn for urn in components if urn not in deployed.outputs}
    assert not silent, f"no register_outputs: {silent}"
    for one in deployed.resources:
        if one.parent in components:
            prefix = f"{components[one.parent].name}-"
            assert one.name.startswith(prefix), f"{one.name} does not begin with {prefix}"
        elif not one.type.startswith("pulumi:providers:"):
            assert one.urn in components, f"{one.urn} has no component as its parent"
        if one.type.startswith("kubernetes:"):
            explicit = "::pulumi:providers:kubernetes::" in one.provider
            assert explicit, f"{one.urn} would go wherever the current context points"


Build = Callable[[pulumi.ResourceOptions], object]
Deploy = Callable[[Build], Deployed]


Run = Callable[[Callable[[], object]], Deployed]


@pytest.fixture
def run_program(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a whole program under the recorder, with an event loop of its own."""
    # an Output in an f-string is an error, not a sentence about Outputs in an object
    monkeypatch.setenv("PULUMI_ERROR_OUTPUT_STRING", "1")

    def run(program: Callable[[], object]) -> Deployed:
        deployed = Deployed()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            # or the stack of the test before this one would keep its exports
            ROOT.set(None)
            mocks.set_mocks(
                _Mocks(), project=PROJECT, stack=STACK, preview=False, monitor=_Recorder(deployed)
            )
            exports: dict[str, Any] = {}

            @mocks.test  # type: ignore[untyped-decorator]  # same
            def test() -> object:
                program()
                stack = get_root_resource()
                assert isinstance(stack, Stack)
                return pulumi.Output.all(**stack.outputs).apply(exports.update)

            test()
            deployed.exports = plain(exports)
        finally:
            with contextlib.suppress(RuntimeError):
                loop.close()
            asyncio.set_event_loop(None)
        _check(deployed)
        return deployed

    return run


@pytest.fixture
def deploy(run_program: Run) -> Deploy:
    """Build components under the recorder; they are given options with an explicit provider."""

    def run(build: Build) -> Deployed:
        def program() -> None:
            build(pulumi.ResourceOptions(provider=Provider("cluster", context="test")))

        return run_program(program)

    return run


Load = Callable[..., Settings]


@pytest.fixture
def load() -> Iterator[Load]:
    """Settings.load as in a stack with these keys; lists and objects as Pulumi passes them."""
    before = CONFIG.get()

    def _load(*, secret: Sequence[str] = (), **values: object) -> Settings:
        set_all_config(
            {f"{PROJECT}:{key}": as_config(value) for key, value in values.items()},
            [f"{PROJECT}:{key}" for key in secret],
        )
        return Settings.load(pulumi.Config(PROJECT))

    yield _load
    set_all_config(before, [])


def as_config(value: object) -> str:
    """A setting as the CLI hands it over."""
    return value if isinstance(value, str) else json.dumps(value)
