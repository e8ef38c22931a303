"""Runs the program of a checkout with a stack's settings, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from review.preview import BadInputError, mapping

RECORD = Path(__file__).with_name("record.py")
NO_CLUSTER = "no-cluster"
"""The context of a stack that names none: nothing is asked of it."""
_CONTEXT = "kubeContext"


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A program and the settings it is run with."""

    folder: Path
    """The checkout: where Pulumi.yaml and __main__.py are."""

    project: str
    stack: str

    config: Mapping[str, str]
    """Every setting by its full key, as the CLI hands it over: lists and objects are JSON."""

    secret: tuple[str, ...]
    """Full keys of the settings that are secret; their values are `[secret]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """One resource as the program asked for it."""

    urn: str
    type: str
    custom: bool
    parent: str
    protect: bool
    aliases: tuple[str, ...]
    """URNs that the same resource may have had before."""

    inputs: Mapping[str, object]
    outputs: Mapping[str, object]
    """Of components and of the stack; no provider runs, so no other resource has any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """All that a program asked for, by URN, and its warnings."""

    states: Mapping[str, State]
    diagnostics: tuple[Mapping[str, str], ...] = ()


def read(folder: Path, stack: str, overrides: Mapping[str, str]) -> Program:
    """The program of a checkout with the settings of `Pulumi.STACK.yaml`.

    Args:
        folder: The checkout.
        stack: Name of the stack.
        overrides: Settings on top of the stack's own, by full key or by the project's.

    Raises:
        BadInputError: There is no such program or no such stack, or a file is not as Pulumi has it.
    """
    project_file = _yaml(folder / "Pulumi.yaml", "a folder with a Pulumi program")
    project = str(project_file.get("name"))
    files = {one.name[len("Pulumi.") : -len(".yaml")]: one for one in folder.glob("Pulumi.*.yaml")}
    if stack not in files:
        raise BadInputError(
            f"{folder} has no Pulumi.{stack}.yaml; allowed: {', '.join(sorted(files)) or 'none'}; "
            f"make it with `pulumi config set KEY VALUE --stack {stack}`"
        )
    declared = mapping(project_file.get("config"))
    defaults = {
        key: mapping(value)["default"]
        for key, value in declared.items()
        if "default" in mapping(value)
    }
    given = mapping(_yaml(files[stack], "settings of a stack").get("config"))
    config: dict[str, str] = {}
    secret: list[str] = []
    for settings in (defaults, given, overrides):
        for key, value in settings.items():
            full = key if ":" in key else f"{project}:{key}"
            if _secure(value):
                secret.append(full)
            config[full] = _text(_hidden(value))
    if _CONTEXT in declared and not config.get(f"{project}:{_CONTEXT}"):
        config[f"{project}:{_CONTEXT}"] = NO_CLUSTER
    return Program(folder=folder, project=project, stack=stack, config=config, secret=tuple(secret))


def run(program: Program) -> Recorded:
    """What the program asks for.

    Raises:
        BadInputError: It refuses its settings, or fails; the message is its own.
    """
    asked = {
        "project": program.project,
        "stack": program.stack,
        "config": dict(program.config),
        "secret": program.secret,
    }
    # -P: the folder of the script, which is ours, holds no modules of the program
    done = subprocess.run(
        [sys.executable, "-P", str(RECORD)],
        cwd=program.folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("PULUMI_")},
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BadInputError(done.stderr.strip() or f"exit code {done.returncode}")
    sys.stderr.write(done.stderr)
    answer = json.loads(done.stdout)
    refused = [said["message"] for said in answer["diagnostics"] if said["severity"] == "error"]
    if refused:
        raise BadInputError("\n".join(refused))
    states = (State(**{**one, "aliases": tuple(one["aliases"])}) for one in answer["states"])
    return Recorded(
        states={state.urn: state for state in states}, diagnostics=tuple(answer["diagnostics"])
    )


def _yaml(file: Path, what: str) -> dict[str, object]:
    try:
        return mapping(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise BadInputError(f"{file.parent} is not {what}: {reason}") from error


def _secure(value: object) -> bool:
    """Whether a secret is in a setting; its cipher text stands under the key `secure`."""
    if isinstance(value, dict):
        return set(value) == {"secure"} or any(map(_secure, value.values()))
    return isinstance(value, list) and any(map(_secure, value))


def _hidden(value: object) -> object:
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            return "[secret]"
        return {key: _hidden(inner) for key, inner in value.items()}
    return [_hidden(inner) for inner in value] if isinstance(value, list) else value


def _text(value: object) -> str:
    """A setting as the CLI hands it over."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
