"""A preview as a comment on a pull request.

Whatever comes from the preview is somebody else's text: it is shown in code only, which it cannot
end, and cut where it is long.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from review.changes import Compared, Listed
from review.manifests import diff
from review.preview import Op
from review.rules import Verdict, broken
from review.security import Line, Security, count, modes
from tlscheck.documents import printable
from tlscheck.rows import Effective
from tlscheck.stack import HIDDEN

LIMIT = 65_536
"""Characters of a comment that GitHub takes, in Unicode's code points: what `len` counts."""
MAX_LINES = 60
"""Lines of one object's difference."""
MAX_WIDTH = 300
"""Characters of such a line."""
MAX_NAME = 80
"""Characters of a name in a sentence."""
MAX_TEXT = 300
"""Characters of a message in a sentence."""
MAX_NAMES = 6
"""Names of clients in a line about edges."""
MAX_EDGES = 15
"""Lines about edges that change alike."""
MAX_SINGLE = 10
"""Objects that come, or go without a loss, one by one; more are counted by kind."""
MAX_OF_KIND = 60
"""Names in such a count."""
MAX_NOTES = 20
COUNTED = {
    Op.REPLACE: "to replace",
    Op.DELETE: "to delete",
    Op.UPDATE: "to update",
    Op.CREATE: "to create",
}
BASIS = (
    "Said by tlscheck, from the objects of this stack alone: what else runs in the cluster is not "
    "seen. An edge is a call that is possible, from a workload to another's port."
)


# --- untrusted text ------------------------------------------------------------------------------


def code(text: object, limit: int = MAX_NAME) -> str:
    """Any text as code in a sentence."""
    shown = _cut(printable(text).replace(HIDDEN[1], "[unknown]"), limit) or " "
    ticks = "`" * (_longest_run(shown) + 1)
    # a blank on both sides is taken away again
    pad = " " if shown[0] == "`" or shown[-1] == "`" or shown != shown.strip() else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def html_code(text: object, limit: int = MAX_NAME) -> str:
    """Any text as code in HTML."""
    return f"<code>{html.escape(_cut(printable(text), limit))}</code>"


def fenced(lines: Sequence[str], language: str, limit: int = MAX_LINES) -> str:
    """Any lines as a block of code, no more of them than that."""
    shown = [_cut(_clean(line), MAX_WIDTH) for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"... and {len(lines) - limit} more lines")
    ticks = "`" * max(3, _longest_run("\n".join(shown)) + 1)
    return "\n".join([f"{ticks}{language}", *shown, ticks])


def _clean(line: str) -> str:
    """The line without what could end it, or turn the reading direction."""
    line = line.replace(HIDDEN[1], "[unknown]").expandtabs(2)
    return "".join(c if c.isprintable() else "?" for c in line)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


# --- the comment ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One object, or several in one line."""

    objects: int
    short: str
    full: Callable[[], str] | None = None
    """With its difference; None if there is no more to say."""


@dataclass(kw_only=True)
class Section:
    """Entries under a title, the most important first."""

    title: str
    entries: list[Entry] = field(default_factory=list)


def marker(project: str, stack: str) -> str:
    """The first line, by which the one comment of a stack is found again."""
    return f"<!-- service-mesh preview: {_name(project)}/{_name(stack)} -->"


def _name(text: str) -> str:
    """The name of a project or a stack, of what Pulumi permits in one."""
    return re.sub(r"[^A-Za-z0-9._-]", "?", text)[:MAX_NAME] or "?"


def failure(project: str, stack: str, what: str, messages: Iterable[str]) -> str:
    """The comment of a preview that cannot be judged."""
    said = [line for message in list(messages)[:5] for line in _said(message)]
    head = f"### {_name(stack)}: {what} ❌"
    return "\n\n".join([marker(project, stack), head, fenced(said, "text")]) + "\n"


def _said(message: str) -> list[str]:
    """A message without the engine's first word and without Python's stack."""
    lines = message.strip().removeprefix("error: ").splitlines()
    starts = [at for at, line in enumerate(lines) if line.strip().startswith("Traceback (most")]
    if starts:
        lines = [*lines[: starts[0]], lines[-1]]
    return lines


def comment(
    project: str,
    stack: str,
    found: Compared,
    security: Security,
    verdicts: Sequence[Verdict],
) -> str:
    """The comment of a preview: what to think first, then every object that changes."""
    head = [
        marker(project, stack),
        headline(stack, found, security, verdicts),
        *_incomplete(found),
        *_security(security),
        *_policy(verdicts),
    ]
    sections = [one for one in _sections(found.listed) if one.entries]
    tail = _notes(found.notes)
    return _fit(head, sections, tail)


def headline(stack: str, found: Compared, security: Security, verdicts: Sequence[Verdict]) -> str:
    """What to think of it, in one line."""
    ops = [one.op for one in found.listed if not one.stays]
    counts = [f"{ops.count(op)} {word}" for op, word in COUNTED.items() if op in ops]
    parts = [", ".join(counts) or "no changes"]
    parts += [f"❌ {text}" for text in _losses(security)]
    if security.opened:
        parts.append(f"⚠️ {_opened(security)}")
    if security.better:
        parts.append(f"✅ {_gains(security)}")
    if rules := broken(verdicts):
        parts.append(f"❌ {len(rules)} {'rule is' if len(rules) == 1 else 'rules are'} broken")
    if lost := sum(bool(one.loses) for one in found.listed):
        parts.append(f"⚠️ {lost} of them {'loses' if lost == 1 else 'lose'} data")
    if found.failed:
        parts.append("⚠️ not complete")
    return f"### {_name(stack)}: {' · '.join(parts)}"


def _edges(number: int) -> str:
    return f"{number} edge{'' if number == 1 else 's'}"


def _verb(number: int, one: str, many: str) -> str:
    return f"{_edges(number)} {one if number == 1 else many}"


def _losses(security: Security) -> Iterator[str]:
    cut = [line for line in security.worse if line.after is Effective.CONFLICT]
    plain = [line for line in security.worse if line.after is Effective.PLAINTEXT]
    if plain:
        yield _verb(count(plain), "loses encryption", "lose encryption")
    if cut:
        yield _verb(count(cut), "is cut off", "are cut off")
    if rest := count(security.worse) - count(cut) - count(plain):
        yield _verb(rest, "is no longer mutual TLS", "are no longer mutual TLS")


def _opened(security: Security) -> str:
    said = "that was refused passes", "that were refused pass"
    return f"{_verb(count(security.opened), *said)} in plaintext"


def _gains(security: Security) -> str:
    number = count(security.better)
    if all(line.before is Effective.PLAINTEXT for line in security.better):
        return _verb(number, "gains encryption", "gain encryption")
    return _verb(number, "gets better", "get better")


def _incomplete(found: Compared) -> Iterator[str]:
    for text in found.failed[:MAX_NOTES]:
        yield f"⚠️ Not compared: {code(text, MAX_TEXT)}"


def _security(security: Security) -> Iterator[str]:
    yield "#### Security"
    if security.worse:
        yield f"❌ **{', '.join(_losses(security))}**"
        yield _edge_lines(security.worse, "❌")
    if security.opened:
        yield f"⚠️ **{_opened(security)}**"
        yield _edge_lines(security.opened, "⚠️")
    if security.better:
        yield _details(f"✅ {_gains(security)}", _edge_lines(security.better, "✅"))
    if security.appear:
        said = f"new: {_edges(security.appear.total())}: {', '.join(modes(security.appear))}"
        yield said if not security.fresh else _details(said, _edge_lines(security.fresh, "⚠️"))
    if security.vanish:
        yield f"gone: {_edges(security.vanish)}, with their workloads or services"
    if total := security.unchanged.total():
        kept = [*modes(security.unchanged)]
        which = (
            f", all {next(iter(security.unchanged))}" if len(kept) == 1 else f": {', '.join(kept)}"
        )
        yield f"unchanged: {_edges(total)}{which}"
    for text in security.notes[:MAX_NOTES]:
        yield f"⚠️ not known: {code(text, MAX_TEXT)}"
    yield f"<sub>{BASIS}</sub>"


def _edge_lines(lines: Sequence[Line], mark: str) -> str:
    shown = [f"- {mark} {_edge_line(line)}" for line in lines[:MAX_EDGES]]
    if rest := lines[MAX_EDGES:]:
        shown.append(f"- and {_edges(count(rest))} more")
    return "\n".join(shown)


def _edge_line(line: Line) -> str:
    clients = ", ".join(map(code, line.clients[:MAX_NAMES]))
    more = len(line.clients) - MAX_NAMES
    clients += f" and {more} more" if more > 0 else ""
    before = f"{_mode(line.before)} to " if line.before else ""
    call = "a call of the stack's own; " if line.declared else ""
    return (
        f"{clients} to {code(line.server)} port {line.port}: {before}{_mode(line.after)} "
        f"({call}{code(line.why, MAX_TEXT)})"
    )


def _mode(mode: Effective | None) -> str:
    return "refused" if mode is Effective.CONFLICT else str(mode)


def _policy(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "#### Policy"
    passed = sum(one.ok for one in verdicts)
    for one in broken(verdicts):
        yield f"❌ **{one.rule}**: {one.says}\n\n" + _bullets(one.messages)
    for one in verdicts:
        if one.open:
            yield f"⚠️ **{one.rule}** cannot be judged before the update:\n\n" + _bullets(one.open)
    everything = "✅ " if passed == len(verdicts) else ""
    yield f"{everything}{passed} {'rule passes' if passed == 1 else 'rules pass'}"
    if broken(verdicts):
        yield "Every rule is mandatory: `make policy` refuses this until the above is mended."


def _bullets(messages: Sequence[str]) -> str:
    shown = [f"- {code(text, MAX_TEXT)}" for text in messages[:MAX_NAMES]]
    more = len(messages) - MAX_NAMES
    return "\n".join([*shown, *([f"- and {more} more"] if more > 0 else [])])


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    shown = [f"- {code(text, MAX_TEXT)}" for text in notes[:MAX_NOTES]]
    if more := len(notes[MAX_NOTES:]):
        shown.append(f"- and {more} more")
    return ["#### Notes", "\n".join(shown)]


def _details(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


# --- objects -------------------------------------------------------------------------------------


def _sections(listed: Sequence[Listed]) -> Iterator[Section]:
    gone = [one for one in listed if one.op in {Op.REPLACE, Op.DELETE} and not one.stays]
    first = [one for one in gone if one.op is Op.REPLACE or one.loses or one.protected]
    rest = [one for one in gone if one not in first]
    first.sort(key=lambda one: (not one.loses, one.op is not Op.DELETE, one.change.key))
    entries = [_entry(one) for one in first] + [*_many(rest, "delete")]
    yield Section(title="Replaced and deleted", entries=entries)
    updated = [one for one in listed if one.op is Op.UPDATE]
    yield Section(title="Updated", entries=[_entry(one) for one in updated])
    created = [one for one in listed if one.op is Op.CREATE]
    yield Section(title="Created", entries=[*_many(created, "create")])
    stay = [one for one in listed if one.stays]
    yield Section(title="Left behind by Helm's resource policy", entries=[*_by_kind(stay, "keep")])


def _many(listed: Sequence[Listed], verb: str) -> Iterator[Entry]:
    if len(listed) <= MAX_SINGLE:
        yield from map(_entry, listed)
    else:
        yield from _by_kind(listed, verb)


def _by_kind(listed: Sequence[Listed], verb: str) -> Iterator[Entry]:
    def kind(one: Listed) -> tuple[str, str]:
        return one.change.key.kind, one.release

    ordered = sorted(listed, key=lambda one: (*kind(one), one.change.key))
    for (name, release), group in groupby(ordered, kind):
        places = [one.change.key.place for one in group]
        names = ", ".join(map(code, places[:MAX_OF_KIND]))
        more = len(places) - MAX_OF_KIND
        names += f" and {more} more" if more > 0 else ""
        inside = f" in release {code(release)}" if release else ""
        title = f"- {verb} {len(places)} {code(name)}{inside}"
        whole = f"{title}: {names}"
        yield Entry(objects=len(places), short=title, full=lambda whole=whole: whole)  # type: ignore[misc]


def _entry(one: Listed) -> Entry:
    key = one.change.key
    facts = []
    if one.loses:
        facts.append(f"⚠️ {one.loses}")
    if one.protected and one.op in {Op.DELETE, Op.REPLACE}:
        facts.append("🔒 protected: <code>pulumi up</code> refuses it")
    if one.reasons:
        names = ", ".join(map(html_code, one.reasons[:MAX_NAMES]))
        facts.append(f"because of {names}")
    title = html_code(f"{key.kind} {key.place}", MAX_TEXT)
    inside = f" in release {html_code(one.release)}" if one.release else ""
    said = f"{one.op} {title}{inside}" + "".join(f", {fact}" for fact in facts)
    # HTML outside of a block is read as Markdown first: there the name is code of its own
    plain = f"- {one.op} {code(f'{key.kind} {key.place}', MAX_TEXT)}"
    plain += f" in release {code(one.release)}" if one.release else ""
    for fact, names in ((one.loses, ""), (bool(one.reasons), _names(one.reasons))):
        plain += f", because of {names}" if names and fact else f", ⚠️ {fact}" if fact else ""
    if one.protected and one.op in {Op.DELETE, Op.REPLACE}:
        plain += ", 🔒 protected: `pulumi up` refuses it"
    if one.op is Op.DELETE:
        return Entry(objects=1, short=plain)
    return Entry(objects=1, short=plain, full=lambda: _details(said, _body(one)))


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(code, names[:MAX_NAMES]))


def _body(one: Listed) -> str:
    found = diff(one.change)
    if one.change.key.kind == "CustomResourceDefinition":
        return f"{sum(line[0] in '+-' for line in found)} lines change"
    if found:
        return fenced(found, "diff")
    names = _names(one.differs or one.reasons)
    if names:
        return f"Only what is hidden, or not among the inputs, differs: {names}"
    return "Its text stays the same." if one.op is Op.REPLACE else "Only blanks differ."


# --- the limit -----------------------------------------------------------------------------------


def _fit(head: list[str], sections: list[Section], tail: list[str]) -> str:
    """All of it, shortened from its end until GitHub takes it."""
    room = LIMIT - len(_join([*head, *tail])) - len(_left_out(LIMIT, LIMIT)) - 4
    room -= sum(len(f"#### {one.title} ({LIMIT})\n\n\n\n") for one in sections)
    entries = [entry for one in sections for entry in one.entries]
    shown: list[str] = []
    for entry in entries:
        if room < len(entry.short) + 2:
            break
        room -= len(entry.short) + 2
        shown.append(entry.short)
    whole = 0
    while whole < len(shown) == len(entries):
        if full := entries[whole].full:
            text = full()
            room -= len(text) - len(shown[whole])
            if room < 0:
                break
            shown[whole] = text
        whole += 1
    parts, texts = list(head), iter(shown)
    for one in sections:
        mine = [text for _, text in zip(one.entries, texts, strict=False)]
        parts += [
            f"#### {one.title} ({sum(entry.objects for entry in one.entries)})",
            *([_join(mine)] if mine else []),
        ]
    hidden = sum(entry.full is not None for entry in entries[whole : len(shown)])
    dropped = len(entries) - len(shown)
    left = [_left_out(hidden, dropped)] if hidden or dropped else []
    return _join([*parts, *tail, *left]) + "\n"


def _left_out(hidden: int, dropped: int) -> str:
    said = [f"the differences of {hidden} entries"] if hidden else []
    said += [f"{dropped} entries at the end"] if dropped else []
    return (
        f"✂️ Left out, as GitHub takes {LIMIT:,} characters: {' and '.join(said)}. "
        "`make preview` shows all."
    )


def _join(parts: Sequence[str]) -> str:
    """Blocks apart, items of one list together."""
    found: list[str] = []
    last = ""
    for part in parts:
        together = part.startswith("- ") and last.startswith("- ")
        found += ["\n" if together else "\n\n" if found else "", part]
        last = part.rpartition("\n")[2]
    return "".join(found)
