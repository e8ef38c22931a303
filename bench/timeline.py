"""Where the time of an update goes: from the engine's events to spans, and the longest chain.

Pure: `stack_bench` runs the CLI and brings the lines that it prints with `--json`, each with the
time of its arrival, because the engine's own timestamps are whole seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STARTED = "resourcePreEvent"
_ENDED = ("resOutputsEvent", "resOpFailedEvent")
_STACK = "pulumi:pulumi:Stack"
_NOT_OBJECTS = ("pulumi:pulumi:", "pulumi:providers:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One resource's turn."""

    urn: str

    op: str
    """What was done to it, in the engine's word."""

    start: float
    """Seconds after the command."""

    end: float
    """Seconds after the command."""

    @property
    def name(self) -> str:
        """Its name in Pulumi."""
        return self.urn.rpartition("::")[2]

    @property
    def kind(self) -> str:
        """Its type without package and version."""
        return self.urn.split("::")[2].rpartition("$")[2].rpartition(":")[2]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One step of the longest chain."""

    span: Span

    idle: float
    """Seconds between the end of what it waited for, or the command's start, and its own start."""


def spans(lines: Iterable[tuple[float, str]]) -> list[Span]:
    """The turns of all resources but the stack and providers, in the order in which they ended.

    Args:
        lines: What the CLI printed with `--json`, each with its arrival in seconds.
    """
    started: dict[str, float] = {}
    found: list[Span] = []
    for at, line in lines:
        event = json.loads(line)
        if _STARTED in event:
            started[event[_STARTED]["metadata"]["urn"]] = at
            continue
        for key in _ENDED:
            if key not in event:
                continue
            what = event[key]["metadata"]
            if not what["type"].startswith(_NOT_OBJECTS):
                urn = what["urn"]
                # a component has no turn of its own: it ends when the program says so
                start = started.get(urn, at)
                found.append(Span(urn=urn, op=what["op"], start=start, end=at))
    return found


def began(lines: Sequence[tuple[float, str]], first: float) -> tuple[float, float]:
    """When the engine spoke first and when the program registered its stack, in seconds.

    Args:
        lines: As for `spans`.
        first: When the first object had its turn. A destroy runs no program: then both are one.
    """
    engine = lines[0][0]
    for at, line in lines:
        event = json.loads(line)
        if at < first and _STARTED in event and event[_STARTED]["metadata"]["type"] == _STACK:
            return engine, at
    return engine, engine


def waits(resources: Sequence[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """For every resource that is no component: those, likewise, that it was created after.

    A child waits for what its parents wait for, and who waits for a component waits for all in it.

    Args:
        resources: `deployment.resources` of `pulumi stack export`.
    """
    by_urn = {one["urn"]: one for one in resources}
    custom = [one["urn"] for one in resources if one.get("custom")]

    def ancestors(urn: str) -> list[str]:
        chain = []
        while urn in by_urn:
            chain.append(urn)
            urn = by_urn[urn].get("parent", "")
        return chain

    inside: dict[str, set[str]] = {}
    for urn in custom:
        for above in ancestors(urn):
            inside.setdefault(above, set()).add(urn)
    return {
        urn: frozenset(
            each
            for above in ancestors(urn)
            for needed in by_urn[above].get("dependencies") or ()
            for each in inside.get(needed, ())
            if each != urn
        )
        for urn in custom
    }


def waves(order: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The same for a destroy: every resource may have waited for any other.

    The engine deletes in waves, and a wave begins when the whole one before it is done.
    """
    every = frozenset(order)
    return {urn: every - {urn} for urn in order}


def longest_chain(found: Sequence[Span], order: Mapping[str, frozenset[str]]) -> list[Link]:
    """What the command's time was: the last resource to end, what it waited for, and so on.

    Args:
        found: All turns.
        order: What each resource waited for; those that it does not name count for nothing.

    Returns:
        The chain from its first resource to the last; empty where nothing was done.
    """
    turns = {one.urn: one for one in found if one.urn in order}
    if not turns:
        return []
    chain: list[Link] = []
    now: Span | None = max(turns.values(), key=lambda one: one.end)
    while now is not None:
        # one that ends later has not been waited for, whatever the state says
        before = [
            turns[urn] for urn in order[now.urn] if urn in turns and turns[urn].end <= now.start
        ]
        last = max(before, key=lambda one: one.end, default=None)
        chain.append(Link(span=now, idle=now.start - (last.end if last else 0.0)))
        now = last
    return chain[::-1]
