"""The bench's account of an update names what the time was spent on, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from bench.stack_bench import account
from bench.timeline import Span, began, longest_chain, spans, waits, waves

_STACK = "urn:pulumi:dev::mesh::pulumi:pulumi:Stack::mesh-dev"
_SPACE = "urn:pulumi:dev::mesh::kubernetes:core/v1:Namespace::space"
_PLANE = "urn:pulumi:dev::mesh::mesh:plane:Plane::plane"
_ISTIOD = "urn:pulumi:dev::mesh::mesh:plane:Plane$kubernetes:helm.sh/v3:Release::istiod"
_APP = "urn:pulumi:dev::mesh::mesh:app:App::app"
_PODS = "urn:pulumi:dev::mesh::mesh:app:App$kubernetes:apps/v1:Deployment::pods"
_ALONE = "urn:pulumi:dev::mesh::kubernetes:core/v1:ConfigMap::alone"


def _event(at: float, key: str, urn: str, op: str = "create") -> tuple[float, str]:
    kind = urn.split("::")[2].rpartition("$")[2]
    return at, json.dumps({key: {"metadata": {"urn": urn, "op": op, "type": kind}}})


def _turn(urn: str, start: float, end: float) -> list[tuple[float, str]]:
    return [_event(start, "resourcePreEvent", urn), _event(end, "resOutputsEvent", urn)]


def _state(urn: str, parent: str, *dependencies: str, custom: bool = True) -> dict[str, Any]:
    return {"urn": urn, "parent": parent, "custom": custom, "dependencies": list(dependencies)}


_RESOURCES = [
    {"urn": _STACK, "custom": False},
    _state(_SPACE, _STACK),
    _state(_PLANE, _STACK, custom=False),
    _state(_ISTIOD, _PLANE, _SPACE),
    _state(_APP, _STACK, _PLANE, custom=False),
    _state(_PODS, _APP),
    _state(_ALONE, _STACK),
]


def _found(urn: str, start: float, end: float) -> Span:
    return Span(urn=urn, op="create", start=start, end=end)


def test_a_turn_is_from_its_first_event_to_its_outputs() -> None:
    (found,) = spans(_turn(_PODS, 3.0, 7.5))
    assert (found.name, found.kind, found.op, found.seconds) == (
        "pods",
        "Deployment",
        "create",
        4.5,
    )


def test_a_turn_that_failed_has_ended_too() -> None:
    lines = [
        _event(1.0, "resourcePreEvent", _PODS),
        _event(4.0, "resOpFailedEvent", _PODS),
    ]
    assert [one.seconds for one in spans(lines)] == [3.0]


def test_the_stack_and_what_is_no_resource_have_no_turn() -> None:
    other = [(0.0, json.dumps({"preludeEvent": {"config": {}}}))]
    assert spans([*other, *_turn(_STACK, 0.0, 9.0)]) == []


def test_a_child_waits_for_everything_inside_the_component_that_its_parent_waits_for() -> None:
    order = waits(_RESOURCES)
    assert order[_PODS] == {_ISTIOD}
    assert order[_ISTIOD] == {_SPACE}
    assert order[_ALONE] == frozenset()
    assert _PLANE not in order


def test_on_the_way_down_a_wave_waits_for_the_slowest_of_the_one_before() -> None:
    found = [
        _found(_PODS, 1.0, 2.0),
        _found(_ALONE, 1.0, 9.0),
        _found(_ISTIOD, 9.0, 10.0),
        _found(_SPACE, 10.0, 11.0),
    ]
    chain = longest_chain(found, waves(waits(_RESOURCES)))
    assert [link.span.name for link in chain] == ["alone", "istiod", "space"]


def test_the_program_has_begun_when_it_registers_its_stack() -> None:
    lines = [(0.5, json.dumps({"preludeEvent": {}})), *_turn(_STACK, 2.0, 30.0)]
    assert began(lines, 3.0) == (0.5, 2.0)


def test_a_destroy_which_deletes_its_stack_last_has_no_program() -> None:
    lines = [(0.5, json.dumps({"preludeEvent": {}})), *_turn(_STACK, 29.0, 30.0)]
    assert began(lines, 1.0) == (0.5, 0.5)


def test_the_longest_chain_leaves_out_what_nobody_waited_for() -> None:
    found = [
        _found(_SPACE, 2.0, 3.0),
        _found(_ALONE, 2.0, 19.0),
        _found(_ISTIOD, 3.5, 10.0),
        _found(_PODS, 11.0, 20.0),
    ]
    chain = longest_chain(found, waits(_RESOURCES))
    assert [(link.span.name, link.idle) for link in chain] == [
        ("space", 2.0),
        ("istiod", 0.5),
        ("pods", 1.0),
    ]


def test_of_two_that_were_waited_for_the_later_one_counts() -> None:
    found = [_found(_SPACE, 0.0, 1.0), _found(_ALONE, 0.0, 4.0), _found(_PODS, 4.0, 5.0)]
    order = {
        _SPACE: frozenset[str](),
        _ALONE: frozenset[str](),
        _PODS: frozenset({_SPACE, _ALONE}),
    }
    assert [link.span.name for link in longest_chain(found, order)] == ["alone", "pods"]


def test_what_ends_later_was_not_waited_for() -> None:
    found = [_found(_SPACE, 0.0, 9.0), _found(_ISTIOD, 3.0, 10.0)]
    chain = longest_chain(found, waits(_RESOURCES))
    assert [(link.span.name, link.idle) for link in chain] == [("istiod", 3.0)]


def test_an_update_that_does_nothing_has_no_chain() -> None:
    assert longest_chain([], waits(_RESOURCES)) == []


def test_the_seconds_of_the_account_add_up_to_the_whole() -> None:
    lines = [
        *_turn(_SPACE, 2.0, 3.0),
        *_turn(_ISTIOD, 3.5, 10.0),
        *_turn(_PODS, 11.0, 20.0),
        (21.0, json.dumps({"summaryEvent": {}})),
    ]
    told = account(lines, waits(_RESOURCES))
    first = told.index("by what is waited for:")
    last = next(n for n, line in enumerate(told) if line.startswith("the longest turns"))
    assert sum(float(line.split(" s ")[0]) for line in told[first + 1 : last]) == 21.0
    assert "istiod" in "".join(told[last:])
