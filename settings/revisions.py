"""Which releases of Istio: of the default istiod and of those beside it, and who has which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from components.control_plane import Revision
from components.kinds import DEFAULT_REVISION
from settings.reader import (
    DNS_LABEL,
    Reader,
    Where,
    nearest,
    remove_command,
    set_command,
)

IMAGE_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
TAG_ALLOWED = "letters, digits, dots, dashes and underscores"

_OLDEST = (1, 30, 0)
"""The first minor release all of whose charts obey `base.validationFailurePolicy` (istio#59367).

Older istiods change their own webhook's failurePolicy, which then shows as drift for ever.
"""

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)
_ALLOWED = f"X.Y.Z, {'.'.join(map(str, _OLDEST))} or newer"

_KEY, _TAGS = "revisions", "revisionTags"
_FIELDS = ("name", "version", "imageTag")
_SHAPE = "{name: NAME, version: X.Y.Z, imageTag: TAG or none}"
_LONGEST_NAME = 46
"""Characters. Helm's limit for `istiod-NAME` is 53."""


def istio_version(read: Reader) -> str:
    """The default istiod's release."""
    value = read.text("istioVersion")
    if _parts(value) is None:
        read.refuse("istioVersion", value, _ALLOWED, read.back_to_default("istioVersion"))
    return value


def istiods(read: Reader, default: str) -> tuple[Revision, ...]:
    """Those beside the default one, no two of one name.

    Args:
        read: The settings.
        default: The default istiod's release.
    """
    example = f"{set_command((_KEY, 0, 'name'), '1-31-1')} && "
    example += set_command((_KEY, 0, "version"), "1.31.1")
    found: list[Revision] = []
    for index, item in enumerate(read.data(_KEY, list, f"a list of {_SHAPE}", example)):
        path: Where = (_KEY, index)
        if not isinstance(item, dict):
            read.refuse(path, item, _SHAPE, f"{remove_command(path)} && {example}")
            continue
        for unknown in sorted(item.keys() - set(_FIELDS)):
            read.refuse_unknown(path, unknown, item[unknown], _FIELDS)
        name = _name(read, path, item, [one.name for one in found])
        version = _version(read, path, item, default)
        tag = _tag(read, path, item)
        if name is not None:
            found.append(Revision(name=name, version=version, image_tag=tag))
    return tuple(found)


def tags(read: Reader, istiods: Sequence[Revision]) -> Mapping[str, str]:
    """Which istiod each tag points to, by the name of its revision or `default`."""
    names = [DEFAULT_REVISION, *(one.name for one in istiods)]
    example = set_command((_TAGS, "stable"), DEFAULT_REVISION)
    items = read.data(_TAGS, dict, "an object {TAG: REVISION}", example)
    found: dict[str, str] = {}
    for tag in items:
        path, value = (_TAGS, tag), _field(items, tag)
        if allowed := _tag_name_problem(tag, names):
            read.refuse(path, value, allowed, f"{remove_command(path)} && {example}")
        elif value in names:
            found[tag] = str(value)
        elif read.sound(_KEY):
            allowed = f"{DEFAULT_REVISION}, or one of revisions: {', '.join(names[1:]) or 'none'}"
            read.refuse(path, value, allowed, set_command(path, nearest(value, names, names[0])))
    return MappingProxyType(found)


def _tag_name_problem(tag: str, names: Sequence[str]) -> str | None:
    """What a tag may be called instead; None: its name is sound."""
    if not DNS_LABEL.fullmatch(tag):
        return "a name of 1 to 63 small letters, digits and dashes, no dash first or last"
    if tag == DEFAULT_REVISION:
        return f"another name: {DEFAULT_REVISION} is what the istiod of istioVersion serves"
    if tag in names:
        return f"another name: {tag} is one of revisions, and its own istiod serves it"
    return None


def of_namespace(read: Reader, istiods: Sequence[Revision], tags: Mapping[str, str]) -> str | None:
    """The revision, or tag, that injects the mesh namespace's pods; None: the default istiod."""
    return _asked(read, "namespaceRevision", istiods, tags)


def of_gateways(read: Reader, istiods: Sequence[Revision], tags: Mapping[str, str]) -> str | None:
    """The revision, or tag, that injects the gateways' pods; None: the default istiod."""
    return _asked(read, "gatewayRevision", istiods, tags)


def _asked(
    read: Reader, key: str, istiods: Sequence[Revision], tags: Mapping[str, str]
) -> str | None:
    value = read.text(key)
    names = [one.name for one in istiods]
    if value and value not in {*names, *tags} and read.sound(_KEY, _TAGS):
        allowed = (
            f"empty (the default istiod), one of revisions: {', '.join(names) or 'none'}, or of "
            f"{_TAGS}: {', '.join(tags) or 'none'}"
        )
        read.refuse(key, value, allowed, set_command((key,), nearest(value, [*names, *tags], "")))
    return value or None


def _parts(value: object) -> tuple[int, ...] | None:
    """Major, minor and patch of a release that can be installed; None where it is none."""
    shape = _VERSION.fullmatch(value) if isinstance(value, str) else None
    parts = tuple(map(int, shape.groups())) if shape else ()
    return parts if parts >= _OLDEST else None


def _field(item: Mapping[str, object], name: str) -> object:
    """A field that is a text, of which `config set --path` makes a number where it can."""
    value = item.get(name)
    return str(value) if type(value) is int else value


def _name(
    read: Reader, where: Where, item: Mapping[str, object], taken: Sequence[str]
) -> str | None:
    path, value = (*where, "name"), _field(item, "name")
    near = re.sub(r"[^a-z0-9-]", "-", str(value or item.get("version")).lower())
    fix = set_command(path, near.strip("-")[:_LONGEST_NAME] or "canary")
    if not isinstance(value, str) or not DNS_LABEL.fullmatch(value) or len(value) > _LONGEST_NAME:
        allowed = f"1 to {_LONGEST_NAME} small letters, digits and dashes, no dash first or last"
    elif value == DEFAULT_REVISION:
        allowed = f"another name: {DEFAULT_REVISION} is the istiod of istioVersion"
        fix = set_command(path, "canary")
    elif value in taken:
        allowed, fix = "every name once", remove_command(where)
    else:
        return value
    read.refuse(path, value, allowed, fix)
    return None


def _version(read: Reader, where: Where, item: Mapping[str, object], default: str) -> str:
    path, value = (*where, "version"), item.get("version")
    mine, theirs = _parts(value), _parts(default)
    if mine is None:
        read.refuse(path, value, _ALLOWED, set_command(path, default))
    elif theirs and (mine[0] != theirs[0] or abs(mine[1] - theirs[1]) > 1):
        allowed = f"at most one minor release from istioVersion, {default}"
        read.refuse(path, value, allowed, set_command(path, default))
    return str(value)


def _tag(read: Reader, where: Where, item: Mapping[str, object]) -> str | None:
    path, value = (*where, "imageTag"), _field(item, "imageTag")
    if value is None or (isinstance(value, str) and IMAGE_TAG.fullmatch(value)):
        return value
    read.refuse(path, value, f"{TAG_ALLOWED}, or left out", remove_command(path))
    return None
