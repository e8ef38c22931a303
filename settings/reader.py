"""Reading and checking one setting at a time, and what an operator is told of a bad one."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pulumi
import yaml
from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret

_PROJECT_FILE = Path(__file__).parents[1] / "Pulumi.yaml"

HIGHEST_PORT = 65535

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_WHOLE_NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)

PASSWORD = "grafanaAdminPassword"  # noqa: S105 the setting's name
HIDDEN = "[secret]"
"""Stands for a value that is never written; Pulumi's CLI writes the same."""

Where = tuple[str | int, ...]
"""Where a value stands: the setting, then fields and indexes."""

_Choice = TypeVar("_Choice", bound=StrEnum)
_Data = TypeVar("_Data", list[Any], dict[str, Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """A setting as `Pulumi.yaml` declares it."""

    key: str
    """Name without the project's: `pulumi config set KEY VALUE`."""

    type: str
    """string, integer, boolean, array or object."""

    default: str
    """As the program would read it from a stack: lists and objects are JSON."""

    description: str
    """What it does and what is allowed, in one or two sentences."""


@cache
def declarations() -> tuple[Declaration, ...]:
    """All settings, in the order of `Pulumi.yaml`."""
    config = yaml.safe_load(_PROJECT_FILE.read_text(encoding="utf-8"))["config"]
    return tuple(
        Declaration(
            key=key,
            type=schema["type"],
            default=as_config(schema["default"]),
            description=schema["description"],
        )
        for key, schema in config.items()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One setting that cannot be used as it is."""

    key: str
    """The setting; inside lists and objects the path to it, as `pulumi config set --path` wants."""

    value: object
    """What it is now."""

    allowed: str
    """What it may be, and why where that is not plain."""

    fix: str
    """A command that mends it."""

    heading: str = "allowed"
    """`problem` where `allowed` says what is wrong instead."""

    def __str__(self) -> str:
        is_now = "not set" if self.value is None else json.dumps(self.value, ensure_ascii=False)
        return f"{self.key} is {is_now}\n  {self.heading}: {self.allowed}\n  fix:     {self.fix}"


class SettingsError(pulumi.RunError):
    """Settings that cannot be used, all of them at once.

    A `RunError`: Pulumi prints its message and no traceback.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        subject = "1 setting" if len(problems) == 1 else f"{len(problems)} settings"
        super().__init__("\n\n".join([f"{subject} cannot be used:", *map(str, problems)]))


class Reader:
    """Turns config text into values; what cannot be turned is noted, and the default stands in.

    The stand-in keeps the types simple; nobody sees it, because a noted problem raises in the end.
    Rules between settings ask `sound` first, lest they blame one setting for another's mistake.
    """

    def __init__(self, config: pulumi.Config) -> None:
        self.problems: list[Problem] = []
        self._unsound: set[object] = set()
        self._config = config
        # Pulumi's CLI applies these too; its test mocks do not.
        self._defaults = {declared.key: declared.default for declared in declarations()}

    def refuse(self, path: str | Where, value: object, allowed: str, fix: str) -> None:
        """Note a problem. Of a secret neither the value nor a command with it is written."""
        path = (path,) if isinstance(path, str) else path
        self._unsound.add(path[0])
        if value != HIDDEN and self.secret(str(path[0])):
            value, fix = HIDDEN, remove_command(path[:1])
            if path[0] in self._defaults:
                fix += ", then set it without --secret"
        self.problems.append(Problem(key=written(path), value=value, allowed=allowed, fix=fix))

    def report(self, key: str, problem: str) -> None:
        """Note what is wrong with the elements of a list or an object taken together."""
        self._unsound.add(key)
        value, fix = json.loads(self.text(key)), remove_command((key,))
        self.problems.append(
            Problem(key=key, value=value, allowed=problem, fix=fix, heading="problem")
        )

    def sound(self, *keys: str) -> bool:
        """Whether nothing is wrong with any of these settings so far."""
        return self._unsound.isdisjoint(keys)

    def secret(self, key: str) -> bool:
        """Whether the setting's value must not be written, because somebody took care of that."""
        return is_config_secret(f"{self._config.name}:{key}")

    def default(self, key: str) -> str:
        """The declared default."""
        return self._defaults[key]

    def back_to_default(self, key: str) -> str:
        """The command that sets the declared default."""
        return set_command((key,), self.default(key))

    def text(self, key: str) -> str:
        """The setting as it is, an explicit empty text included."""
        value = self._config.get(key)
        return self._defaults[key] if value is None else value

    def one_of(self, key: str, allowed: Sequence[str]) -> str:
        """One of a few words."""
        value = self.text(key)
        if value in allowed:
            return value
        near = nearest(value, allowed, self.default(key))
        self.refuse(key, value, ", ".join(allowed), set_command((key,), near))
        return self.default(key)

    def choice(self, key: str, choices: type[_Choice]) -> _Choice:
        """One member of an enum, by value."""
        return choices(self.one_of(key, [choice.value for choice in choices]))

    def flag(self, key: str) -> bool:
        """True or false; Pulumi writes them in lower case."""
        return self.one_of(key, ("true", "false")) == "true"

    def optional(self, key: str, shape: re.Pattern[str], allowed: str) -> str | None:
        """A text of some shape, or None where it is empty."""
        value = self.text(key)
        if value and not shape.fullmatch(value):
            self.refuse(key, value, f"{allowed}, or empty", set_command((key,), ""))
        return value or None

    def whole_number(self, key: str, lowest: int, highest: int) -> int:
        """A whole number within bounds."""
        value = self.text(key)
        if _WHOLE_NUMBER.fullmatch(value) and lowest <= int(value) <= highest:
            return int(value)
        allowed = f"a whole number from {lowest} to {highest}"
        self.refuse(key, value, allowed, self.back_to_default(key))
        return int(self.default(key))

    def data(self, key: str, kind: type[_Data], allowed: str, example: str) -> _Data:
        """A list or an object, which Pulumi hands over as JSON.

        Args:
            key: The setting.
            kind: list or dict.
            allowed: What it may be.
            example: A command that sets a first element.
        """
        text = self.text(key)
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = None
        if isinstance(value, kind):
            return value
        self.refuse(key, text, allowed, f"{remove_command((key,))} && {example}")
        return kind()

    def refuse_unknown_keys(self) -> None:
        """Note every setting of this project that nobody declared: mostly a typo."""
        # pulumi.Config cannot list its keys; these two are where it looks them up itself.
        configured = {**get_config_env(), **CONFIG.get()}
        prefix = f"{self._config.name}:"
        for name in sorted(configured):
            key = name.removeprefix(prefix)
            if not name.startswith(prefix) or key in self._defaults:
                continue
            parent, value = re.split(r"[.\[]", key)[0], configured[name]
            meant = parent if parent in self._defaults else nearest(key, tuple(self._defaults), "")
            if meant == PASSWORD:
                fix = f"{remove_command((key,))} && pulumi config set --secret {PASSWORD}"
                self.refuse(key, HIDDEN, f"did you mean {PASSWORD}?", fix)
            elif parent in self._defaults:
                fix = f"{remove_command((key,))} && {set_command((key,), value, nested=True)}"
                self.refuse(key, value, f"what is inside {parent} is set with --path", fix)
            else:
                self.refuse_unknown((), key, value, tuple(self._defaults))

    def refuse_unknown(self, parent: Where, name: str, value: object, known: Sequence[str]) -> None:
        """Note a name that nobody declared, and the declared one that was probably meant."""
        path = (*parent, name)
        allowed, fix = ", ".join(known), remove_command(path)
        if near := nearest(name, known, ""):
            allowed = f"did you mean {near}? There are {allowed}"
            meant, text = (*parent, near), as_config(value)
            # config set cannot write a list or an object in one go
            nested = text.startswith(("[", "{"))
            fix = (
                f"rename it to {near} where it is written"
                if nested
                else (f"{fix} && {set_command(meant, text)}")
            )
        self.refuse(path, value, allowed, fix)


def as_config(value: object) -> str:
    """A value as Pulumi would hand it over.

    `pulumi config set --path` turns true and 15012 into a bool and a number; this turns them back.
    """
    return value if isinstance(value, str) else json.dumps(value)


def nearest(value: object, allowed: Iterable[str], otherwise: str) -> str:
    """What was probably meant."""
    by_lower_case = {word.lower(): word for word in allowed}
    near = difflib.get_close_matches(str(value).lower(), by_lower_case, n=1)
    return by_lower_case[near[0]] if near else otherwise


def written(path: Where) -> str:
    """A path as `pulumi config --path` wants it."""
    text = str(path[0])
    for part in path[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = re.fullmatch(r"\w+", part, re.ASCII)
            text += f".{part}" if plain else f"[{json.dumps(part)}]"
    return text


def set_command(path: Where, value: str, *, nested: bool = False) -> str:
    """The command that sets a setting, or with a longer path something in it."""
    return f"pulumi config set {_argument(path, nested=nested)} {shlex.quote(value)}"


def remove_command(path: Where) -> str:
    """The command that takes it away."""
    return f"pulumi config rm {_argument(path)}"


def _argument(path: Where, *, nested: bool = False) -> str:
    return ("--path " if nested or len(path) > 1 else "") + shlex.quote(written(path))
