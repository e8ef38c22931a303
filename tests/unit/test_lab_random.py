"""The lab's stand-in for the random provider: what it makes, what it hides, what it refuses."""

from __future__ import annotations

import string
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from pulumi.runtime.proto import provider_pb2
from pulumi.runtime.rpc import UNKNOWN

from lab import random_provider
from lab.random_provider import PASSWORD, STRING, Provider, generate, problems

SECRET = {
    "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
    "value": "of the keeper",
}


def _struct(properties: dict[str, Any]) -> struct_pb2.Struct:
    return json_format.ParseDict(properties, struct_pb2.Struct())


def _urn(kind: str) -> str:
    return f"urn:pulumi:dev::project::service-mesh:observability:Grafana${kind}::name"


def _create(kind: str, inputs: dict[str, Any], *, preview: bool = False) -> Any:
    request = provider_pb2.CreateRequest(
        urn=_urn(kind), properties=_struct(inputs), preview=preview
    )
    return Provider().Create(request, None)


def _outputs(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(answer.properties)
    return found


def test_a_text_is_as_long_as_asked_and_made_of_the_classes_that_are_not_left_out() -> None:
    text = generate({"length": 2000.0, "special": False, "upper": False})
    assert len(text) == 2000
    assert set(text) == {*string.ascii_lowercase, *string.digits}


def test_minimums_are_met_and_special_characters_can_be_chosen() -> None:
    for _ in range(50):
        text = generate({"length": 4, "minSpecial": 2, "minUpper": 2, "overrideSpecial": "_"})
        assert text.count("_") == 2
        assert sum(letter.isupper() for letter in text) == 2


def test_no_two_texts_are_the_same() -> None:
    assert len({generate({"length": 16}) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("inputs", "wrong"),
    [
        ({}, "length"),
        ({"length": 0}, "length"),
        ({"length": 3, "minLower": 2, "minNumeric": 2}, "length"),
        (
            {"length": 3, "upper": False, "lower": False, "number": False, "special": False},
            "special",
        ),
    ],
    ids=["no-length", "empty", "shorter-than-its-minimums", "no-characters"],
)
def test_what_no_text_can_be_made_of_is_refused_by_property(
    inputs: dict[str, Any], wrong: str
) -> None:
    assert list(problems(inputs)) == [wrong]
    request = provider_pb2.CheckRequest(urn=_urn(PASSWORD), news=_struct(inputs))
    assert [one.property for one in Provider().Check(request, None).failures] == [wrong]


def test_a_length_that_a_preview_does_not_know_yet_is_not_refused() -> None:
    assert problems({"length": UNKNOWN}) == {}


def test_a_password_is_a_secret_and_its_id_does_not_tell_it() -> None:
    answer = _create(PASSWORD, {"length": 20})
    result = _outputs(answer)["result"]
    assert result.keys() == SECRET.keys()
    assert len(result["value"]) == 20
    assert answer.id == "none"


def test_a_string_is_plain_and_its_own_id() -> None:
    answer = _create(STRING, {"length": 10})
    assert answer.id == _outputs(answer)["result"]
    assert len(answer.id) == 10


def test_a_preview_makes_no_text() -> None:
    for kind in (PASSWORD, STRING):
        answer = _create(kind, {"length": 10}, preview=True)
        result = _outputs(answer)["result"]
        assert UNKNOWN in {result["value"] if isinstance(result, dict) else result}
        assert answer.id == ""


def test_a_secret_keeper_stays_a_secret() -> None:
    outputs = _outputs(_create(STRING, {"length": 10, "keepers": {"of": SECRET}}))
    assert outputs["keepers"] == {"of": SECRET}


@pytest.mark.parametrize("kind", [PASSWORD, STRING])
def test_outputs_have_the_defaults_of_what_was_not_given(kind: str) -> None:
    outputs = _outputs(_create(kind, {"length": 10, "special": False}))
    del outputs["result"]
    assert outputs == {
        "length": 10,
        "special": False,
        **dict.fromkeys(("upper", "lower", "numeric", "number"), True),
        **dict.fromkeys(("minUpper", "minLower", "minNumeric", "minSpecial"), 0),
    }


def _diff(old: dict[str, Any], new: dict[str, Any]) -> Any:
    request = provider_pb2.DiffRequest(old_inputs=_struct(old), news=_struct(new))
    return Provider().Diff(request, None)


def test_every_change_is_a_replacement() -> None:
    answer = _diff({"length": 10, "keepers": {"a": "1"}}, {"length": 11, "keepers": {"a": "2"}})
    assert answer.changes == provider_pb2.DiffResponse.DIFF_SOME
    assert list(answer.replaces) == ["keepers", "length"]


def test_the_same_inputs_are_no_change_whether_marked_as_secret_or_not() -> None:
    answer = _diff(
        {"length": 10, "keepers": {"a": "of the keeper"}},
        {"length": 10, "keepers": {"a": SECRET}},
    )
    assert answer.changes == provider_pb2.DiffResponse.DIFF_NONE


def test_a_refresh_gives_back_what_the_state_says_with_the_password_marked() -> None:
    """The engine sends the state without marks."""
    request = provider_pb2.ReadRequest(
        id="none", urn=_urn(PASSWORD), properties=_struct({"length": 3, "result": "abc"})
    )
    answer = Provider().Read(request, None)
    assert _outputs(answer) == {"length": 3, "result": {**SECRET, "value": "abc"}}
    assert answer.id == "none"


def test_another_resource_of_the_provider_is_refused_by_name() -> None:
    class Refused(Exception):
        pass

    class Context:
        def abort(self, code: object, text: str) -> None:
            raise Refused(code, text)

    request = provider_pb2.CheckRequest(urn=_urn("random:index/randomPet:RandomPet"))
    with pytest.raises(Refused, match=r"lab's stand-in .* has no random:index/randomPet:RandomPet"):
        Provider().Check(request, Context())


def test_its_first_line_says_that_it_is_a_stand_in() -> None:
    assert str(random_provider.__doc__).startswith("Stand-in for `pulumi-resource-random`")
    assert "not Pulumi's official" in str(random_provider.__doc__).splitlines()[0]
