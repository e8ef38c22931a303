"""Text to documents: YAML and JSON, read in a way that no input can break."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, BinaryIO

MAX_DEPTH = 200
"""Levels of nesting that are read; no object of Kubernetes has 50."""


class BadInputError(Exception):
    """The input cannot be judged; the message is one line that says why."""


def mapping(value: object) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def printable(text: object) -> str:
    """The text on one line, without what a terminal or an XML reader would take for a command."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


NUMBER = re.compile(
    r"[-+]?(?:(?P<hex>0x[0-9a-fA-F]+)|0o?(?P<octal>[0-7]+)|(?P<decimal>0|[1-9]\d*)"
    r"|(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][-+]?\d+)?)",
    re.ASCII,
)
WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
for _truth, _words in ((True, "true yes on"), (False, "false no off")):
    WORDS |= {w: _truth for word in _words.split() for w in (word, word.title(), word.upper())}


@lru_cache(65536)
def plain(text: str) -> str | float | bool | None:
    """The value of an unquoted scalar as Kubernetes reads it: a date stays text."""
    if text in WORDS:
        return WORDS[text]
    found = NUMBER.fullmatch(text)
    if not found:
        return text
    base = {"hex": 16, "octal": 8, "decimal": 10}.get(found.lastgroup or "")
    try:
        return int(text.lower().replace("0o", "0"), base) if base else float(text)
    except ValueError:  # more digits than Python reads: nothing in Kubernetes is that large
        return text


class Documents:
    """Builds documents from the events of PyYAML's parser.

    Several times faster than its loader, which also needs the memory twice, turns dates into
    objects and takes the whole process down on deeply nested input.
    """

    def __init__(self) -> None:
        self._open: list[tuple[Any, str | None]] = []
        self._keys: list[str | None] = []
        self._anchors: dict[str, Any] = {}

    def read(self, stream: BinaryIO | bytes) -> Iterator[object]:
        """The documents of a YAML stream, one at a time.

        Raises:
            BadInputError: It is not YAML, nests too deep, contains itself, or a key is no word.
        """
        import yaml  # noqa: PLC0415 # JSON does not need it

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            event: Any
            for event in yaml.parse(stream, Loader=loader):
                kind = type(event).__name__
                if kind == "ScalarEvent":
                    self._scalar(event)
                elif kind in ("MappingStartEvent", "SequenceStartEvent"):
                    self._start({} if kind[0] == "M" else [], event.anchor)
                elif kind in ("MappingEndEvent", "SequenceEndEvent"):
                    self._end()
                elif kind == "AliasEvent":
                    if event.anchor not in self._anchors:
                        raise BadInputError(f"*{event.anchor} is used before its value is complete")
                    self._add(self._anchors[event.anchor])
                elif kind == "DocumentStartEvent":
                    self._document: object = None
                    self._anchors = {}
                elif kind == "DocumentEndEvent":
                    yield self._document
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
            problem = getattr(error, "problem", None) or " ".join(str(error).split())
            raise BadInputError(f"not YAML: {problem}{where}") from error

    def _scalar(self, event: Any) -> None:  # noqa: ANN401 # PyYAML's
        value: object = event.value
        if self._open and type(self._open[-1][0]) is dict and self._keys[-1] is None:
            value = sys.intern(event.value)
        elif event.implicit[0] or (event.tag or "").endswith((":int", ":float", ":bool")):
            value = plain(event.value)
        if event.anchor:
            self._anchors[event.anchor] = value
        self._add(value)

    def _start(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        if len(self._open) == MAX_DEPTH:
            raise BadInputError(f"nested more than {MAX_DEPTH} levels deep")
        if anchor:
            self._anchors.pop(anchor, None)
        self._open.append((value, anchor))
        self._keys.append(None)

    def _end(self) -> None:
        value, anchor = self._open.pop()
        self._keys.pop()
        if anchor:
            self._anchors[anchor] = value
        self._add(value)

    def _add(self, value: object) -> None:
        if not self._open:
            self._document = value
            return
        parent, key = self._open[-1][0], self._keys[-1]
        if type(parent) is list:
            parent.append(value)
        elif key is None:
            if not isinstance(value, str):
                raise BadInputError("a key is a mapping or a list; is this an unrendered template?")
            self._keys[-1] = value
        else:
            self._keys[-1] = None
            if key != "<<":
                parent[key] = value
            for merged in (value if isinstance(value, list) else [value]) if key == "<<" else ():
                for name, inherited in mapping(merged).items():
                    parent.setdefault(name, inherited)


def json_documents(text: str) -> Iterator[object]:
    """The JSON documents that follow one another in a text."""
    decoder, at = json.JSONDecoder(), 0
    blank = re.compile(r"\s*")
    while (at := blank.match(text, at).end()) < len(text):  # type: ignore[union-attr] # matches ""
        document, at = decoder.raw_decode(text, at)
        yield document


def documents(stream: BinaryIO) -> Iterator[object]:
    """The documents of a file, YAML or JSON."""
    if not stream.seekable():
        stream = io.BytesIO(stream.read())
    json_like = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    stream.seek(0)
    if json_like:
        try:
            yield from list(json_documents(stream.read().decode("utf-8-sig")))
        except RecursionError as error:
            raise BadInputError(f"nested more than {MAX_DEPTH} levels deep") from error
        except ValueError:  # not JSON, but YAML's flow style may begin like it
            stream.seek(0)
        else:
            return
    yield from Documents().read(stream)
