"""Turns what differs in a release into what a reviewer reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from review.manifests import Change, Difference, diff, lines
from review.preview import Op

MAX_OBJECTS = 30
"""Objects of one release whose difference is shown without --full."""
MAX_LINES = 80
"""Lines of one object's difference that are shown without --full."""
RELEASE_WORDS = {Op.CREATE: "first install", Op.DELETE: "uninstall"}
"""Helm's words for what Pulumi does to a release."""
WORDS = {"~": "to change", "+": "to add", "-": "to delete", "=": "left behind"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviewed:
    """One release as it was found."""

    name: str
    op: Op
    notes: list[str]
    difference: Difference | None = None
    """None when it could not be told; a note says why then."""


def report(release: Reviewed, *, full: bool) -> Iterator[str]:
    """All lines about one release: a summary, then notes, then objects."""
    word = RELEASE_WORDS.get(release.op, release.op)
    title = release.name if release.op is Op.UPDATE else f"{release.name} ({word})"
    found = release.difference
    if found is None:
        yield f"{title}: not compared"
        yield from (f"  note: {note}" for note in release.notes)
        return
    signs = [change.sign for change in found.changes]
    counts = [(signs.count(sign), word) for sign, word in WORDS.items()]
    counts += [(found.relabelled, "with new version labels only"), (found.unchanged, "unchanged")]
    yield f"{title}: {', '.join(f'{n} {word}' for n, word in counts if n) or 'no objects'}"
    yield from (f"  note: {note}" for note in release.notes)
    yield from (f"  label {text} on {n} objects" for text, n in sorted(found.labels.items()))
    if release.op in {Op.CREATE, Op.DELETE} and not full:
        for (sign, kind), group in groupby(sorted(found.changes, key=_kind), _kind):
            names = [change.key.place for change in group]
            yield f"  {sign} {len(names)} {kind}: {', '.join(names)}"
        return
    shown = 0
    for change in found.changes:
        yield from _object(change, full=full, limit=MAX_LINES if shown < MAX_OBJECTS else 0)
        shown += change.sign == "~"
    if shown > MAX_OBJECTS and not full:
        yield f"  note: only {MAX_OBJECTS} of {shown} differences are shown; --full shows all"


def _kind(change: Change) -> tuple[str, str]:
    return change.sign, change.key.kind


def _object(change: Change, *, full: bool, limit: int) -> Iterator[str]:
    api = (change.new or change.old).get("apiVersion")
    title = f"  {change.sign} {api} {change.key.kind} {change.key.place}"
    if change.sign != "~":
        yield title
        yield from (f"      {line}" for line in lines(change.new or change.old) if full)
        return
    found = diff(change) or ["(blanks at the end of lines only)"]
    if change.key.kind == "CustomResourceDefinition" and not full:
        yield f"{title}: {sum(line[0] in '+-' for line in found)} lines change"
        return
    yield title
    limit = len(found) if full else limit
    yield from (f"      {line}" for line in found[:limit])
    if 0 < limit < len(found):
        yield f"      ... and {len(found) - limit} more lines; --full shows all"
