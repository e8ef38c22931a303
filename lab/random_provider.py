#!/usr/bin/env python3
"""Stand-in for `pulumi-resource-random`, for the lab only: not Pulumi's official provider.

The official plugin is only in Pulumi's own release archive. This serves its two resources that
make text, RandomPassword and RandomString, over the same protocol and from the operating system's
random numbers, so that a program is the same with either. It has no `bcryptHash` and no import.

Names, defaults and what is secret are the provider's own:
https://www.pulumi.com/registry/packages/random/api-docs/randompassword/
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from concurrent import futures
from importlib import metadata
from typing import Any, Final

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc
from pulumi.runtime.rpc import UNKNOWN

from lab.plugin import serve

PASSWORD: Final = "random:index/randomPassword:RandomPassword"  # noqa: S105 (a type's name)
"""Its `result` is a secret; its id is always "none"."""

STRING: Final = "random:index/randomString:RandomString"
"""Its `result` is no secret, and is its id too."""

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 (marks a secret, is none)

_CLASSES: Final = {
    "upper": string.ascii_uppercase,
    "lower": string.ascii_lowercase,
    "numeric": string.digits,
    "special": "!@#$%&*()-_=+[]{}<>:?",
}
"""What the text is made of, by the setting that leaves a class out."""


def generate(inputs: Mapping[str, Any]) -> str:
    """A text as the inputs ask for it, each permitted one as likely as any other.

    Args:
        inputs: of a resource that `problems` has nothing to say about.
    """
    classes = _classes(inputs)
    wanted = {name: int(inputs.get(f"min{name.title()}", 0)) for name in _CLASSES}
    text = [
        # a class that is left out but has a minimum is in the text all the same, as in the provider
        secrets.choice(classes.get(name, _CLASSES[name]))
        for name, count in wanted.items()
        for _ in range(count)
    ]
    alphabet = "".join(classes.values())
    text += [secrets.choice(alphabet) for _ in range(int(inputs["length"]) - len(text))]
    secrets.SystemRandom().shuffle(text)
    return "".join(text)


def problems(inputs: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the inputs, by property; empty when nothing is."""
    length = inputs.get("length")
    if length == UNKNOWN:
        return {}
    if not isinstance(length, (int, float)) or length < 1:
        return {"length": "must be a number, 1 or more"}
    least = sum(int(inputs.get(f"min{name.title()}", 0)) for name in _CLASSES)
    if length < least:
        return {"length": f"must be at least {least}, the sum of the min* settings"}
    if not _classes(inputs):
        return {"special": "upper, lower, numeric and special cannot all be false"}
    return {}


def _classes(inputs: Mapping[str, Any]) -> dict[str, str]:
    """The characters of each class that is not left out."""
    own = {**_CLASSES, "special": inputs.get("overrideSpecial") or _CLASSES["special"]}
    # `number` is the old name of `numeric`
    off = {name for name in own if inputs.get(name) is False}
    if inputs.get("number") is False:
        off.add("numeric")
    return {name: text for name, text in own.items() if name not in off}


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """The service the engine talks to. Requests and answers are Pulumi's own messages."""

    def Handshake(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """Secrets come marked as such, and are given back marked."""
        return provider_pb2.ProviderHandshakeResponse(
            accept_secrets=True, accept_resources=False, accept_outputs=False
        )

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """The SDK's version: any other one would make the engine warn."""
        return plugin_pb2.PluginInfo(version=metadata.version("pulumi-random"))

    def CheckConfig(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """There is nothing to configure."""
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """There is nothing that could differ."""
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """Previews are answered here too, with unknown results."""
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: ANN401
        """Refuse inputs of which no text can be made."""
        if _type(request.urn) not in {PASSWORD, STRING}:
            context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                f"the lab's stand-in of the random provider has no {_type(request.urn)}",
            )
        failures = [
            provider_pb2.CheckFailure(property=name, reason=reason)
            for name, reason in problems(_plain(request.news)).items()
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    def Diff(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """Every change makes a new text."""
        old, new = _plain(request.old_inputs), _plain(request.news)
        changed = sorted(
            name
            for name in {*old, *new} - {"__defaults"}
            if old.get(name) != new.get(name) and name not in request.ignoreChanges
        )
        answer = provider_pb2.DiffResponse
        if not changed:
            return answer(changes=answer.DIFF_NONE)
        return answer(
            changes=answer.DIFF_SOME, replaces=changed, diffs=changed, deleteBeforeReplace=False
        )

    def Create(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """Make the text; a preview leaves it unknown."""
        kind, inputs = _type(request.urn), _plain(request.properties)
        result = UNKNOWN if request.preview else generate(inputs)
        numeric = inputs.get("numeric", inputs.get("number", True))
        outputs = {
            **dict.fromkeys(_CLASSES, True),
            **{f"min{name.title()}": 0 for name in _CLASSES},
            # the marks of secret keepers stay
            **json_format.MessageToDict(request.properties),
            "numeric": numeric,
            "number": numeric,
            "result": _marked(result) if kind == PASSWORD else result,
        }
        identity = "none" if kind == PASSWORD else result
        return provider_pb2.CreateResponse(
            id="" if request.preview else identity, properties=_struct(outputs)
        )

    def Read(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """The state is all there is: nothing outside can have drifted."""
        properties = json_format.MessageToDict(request.properties)
        if _type(request.urn) == PASSWORD and "result" in properties:
            properties["result"] = _marked(_unmarked(properties["result"]))
        return provider_pb2.ReadResponse(
            id=request.id, properties=_struct(properties), inputs=request.inputs
        )

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """Nothing outside the state has to go."""
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        """No request takes long enough."""
        return empty_pb2.Empty()


def _type(urn: str) -> str:
    """The resource's type, out of `urn:pulumi:stack::project::parent$type::name`."""
    return urn.split("::")[2].rpartition("$")[2]


def _marked(value: object) -> dict[str, object]:
    return {_SIGNATURE: _SECRET, "value": value}


def _unmarked(value: Any) -> Any:  # noqa: ANN401 (JSON)
    """A value without the marks of secrets, at any depth."""
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            return _unmarked(value.get("value"))
        return {key: _unmarked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    return value


def _plain(properties: struct_pb2.Struct) -> dict[str, Any]:
    found: dict[str, Any] = _unmarked(json_format.MessageToDict(properties))
    return found


def _struct(properties: Mapping[str, object]) -> struct_pb2.Struct:
    return json_format.ParseDict(dict(properties), struct_pb2.Struct())


def main() -> None:
    """Serve the provider."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(), server)
    serve(server)


if __name__ == "__main__":
    main()
