"""Writes objects as YAML, one file each: the same objects give the same bytes."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import yaml

from review.manifests import Key, Object
from review.objects import Declared
from review.preview import BadInputError

MARKER = ".rendered"
"""A folder with this file is ours to replace."""
CLUSTER = "cluster"
"""Folder of what is in no namespace. No namespaced kind is in it: file names begin with the kind,
so a namespace of that name takes nothing away."""
CRDS = "crds"
"""Folder of the CRDs: large, and not every tool wants them."""
HIDDEN = "[secret]"

_NUMBER = re.compile(r"[-+.\d]\S*|[yYnN]")
"""Text that YAML 1.1 or 1.2 could take for something else, whatever PyYAML thinks of it."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes text of many lines as lines where YAML can."""


def _text(_: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"' if _NUMBER.fullmatch(text) else None
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.ignore_aliases = lambda *_: True


def files(objects: Iterable[Declared]) -> dict[str, str]:
    """The text of every file by its path, `NAMESPACE/KIND-NAME.yaml`.

    Two kinds of one name are told apart by their groups. What a Secret holds is `[secret]`.
    """
    by_key = {one.key: one.item for one in objects}
    names = Counter(_path(key) for key in by_key)
    found = {}
    for key, item in by_key.items():
        path = _path(key, group=names[_path(key)] > 1)
        found[f"{path}.yaml"] = yaml.dump(
            _without_secrets(item), Dumper=_Dumper, sort_keys=True, width=4096, allow_unicode=True
        )
    return dict(sorted(found.items()))


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Replace what an earlier run has written.

    Raises:
        BadInputError: The folder has something else in it, or is none.
        OSError: It cannot be written.
    """
    if folder.exists() and not (folder / MARKER).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise BadInputError(
                f"{folder} is not written by this command; allowed: a folder that is new, empty, "
                f"or has the file {MARKER}; give another one with --out, or remove this one"
            )
    elif folder.exists():
        shutil.rmtree(folder)
    for path, text in {MARKER: "", **texts}.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _path(key: Key, *, group: bool = False) -> str:
    crd = key.kind == "CustomResourceDefinition"
    folder = CRDS if crd else quote(key.namespace, safe="") or CLUSTER
    kind = f"{key.kind.lower()}.{key.group}" if group else key.kind.lower()
    # names of RBAC may hold a colon, which not every file system has
    return f"{folder}/{kind}-{quote(key.name, safe='')}"


def _without_secrets(item: Object) -> Object:
    if item.get("kind") != "Secret":
        return item
    hidden = dict(item)
    for field in hidden.keys() & {"data", "stringData"}:
        held = hidden[field]
        hidden[field] = dict.fromkeys(held, HIDDEN) if isinstance(held, dict) else HIDDEN
    return hidden
