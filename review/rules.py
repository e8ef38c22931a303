"""What the guard rails of `policy/` say about the resources of a preview."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policy.guards import RULES, Finding, Resource, Rule
from review.preview import Document, State
from review.preview import Resource as Previewed
from tlscheck.stack import HIDDEN

STACK = "pulumi:pulumi:Stack"


class UnknownError(Exception):
    """A rule asked for what only `pulumi up` will know, or for a secret."""


class Props(dict[str, object]):
    """Properties that do not give away what is hidden: a rule must not judge the CLI's word."""

    def __getitem__(self, key: str) -> object:
        value = super().__getitem__(key)
        if value in HIDDEN:
            raise UnknownError(key)
        return value

    def get(self, key: str, default: object = None) -> object:
        """The value, if it is there."""
        return self[key] if key in self else default  # noqa: SIM401 # `get` is this one


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one rule says."""

    rule: str
    says: str
    messages: tuple[str, ...]
    """What it has against the preview, sorted."""
    open: tuple[str, ...]
    """Why it could not judge all of it."""

    @property
    def ok(self) -> bool:
        """Whether nothing is against it."""
        return not (self.messages or self.open)


def verdicts(document: Document, rules: Sequence[Rule] = RULES) -> list[Verdict]:
    """All rules, in their own order. None of them can be ended by what a preview holds."""
    seen = [_seen(one, document) for one in document.resources if one.new]
    return [_verdict(rule, seen) for rule in rules]


def _verdict(rule: Rule, seen: Sequence[Resource]) -> Verdict:
    found: list[Finding] = []
    left: set[str] = set()
    for resources in [seen] if rule.whole_stack else [[one] for one in seen]:
        try:
            found += rule.check(resources)
        except UnknownError as error:
            left.add(f"{error} is secret or not known yet")
        # a preview is somebody's data, of any shape
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            left.add(f"of a shape that it does not expect ({type(error).__name__})")
    return Verdict(
        rule=rule.name,
        says=rule.says,
        messages=tuple(sorted({one.message for one in found})),
        open=tuple(sorted(left)),
    )


def _seen(one: Previewed, document: Document) -> Resource:
    state = one.new or State(inputs={}, outputs={}, protect=False)
    props = state.inputs
    if one.type == STACK:
        # a preview does not hold the stack's new outputs: its settings say the same
        project, _ = document.names
        said = document.config.get(f"{project}:production")
        props = {"production": str(said).lower() == "true"} | state.outputs
    guarded = _guarded(props)
    return Resource(
        type=one.type,
        name=one.name,
        urn=one.urn,
        props=guarded if isinstance(guarded, Props) else Props(),
        protect=state.protect,
    )


def _guarded(value: object) -> object:
    if isinstance(value, dict):
        return Props((key, _guarded(item)) for key, item in value.items())
    return [_guarded(item) for item in value] if isinstance(value, list) else value


def broken(found: Iterable[Verdict]) -> list[Verdict]:
    """Those that something is against."""
    return [one for one in found if one.messages]
