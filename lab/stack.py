"""Running the Pulumi CLI: on the lab, or on the cluster that the stack's own settings name."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import yaml

from lab.lifecycle import LabError, up
from lab.paths import CONTEXT, ROOT, LabPaths
from lab.toolchain import Tools, ensure

if TYPE_CHECKING:
    from collections.abc import Sequence

TOOLS: Final = ("pulumi", "pulumi-resource-kubernetes", "kubectl", "istioctl", "helm")
"""What a person on the lab has on PATH."""

_TAKES_CONFIG_FILE: Final = frozenset({"up", "preview", "destroy", "refresh", "config"})

_UPDATES: Final = frozenset({"up", "destroy", "refresh"})
"""What takes the stack's lock, and leaves it behind when it is killed."""

_TRIES = 3
"""How often a deletion that was cut off is begun again."""

_PROJECT = "service-mesh"

_ISTIO = "1.31.0"
"""The release that the lab's istiod and charts were built from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """A stack and the surroundings in which the CLI is called for it."""

    name: str
    """Name of the stack, as in `Pulumi.<name>.yaml`."""

    variables: dict[str, str]
    """Environment on top of the caller's."""

    config: Path | None
    """Settings file other than the stack's own: the lab adds its context and charts."""

    program: Path = ROOT
    """Folder of the Pulumi program."""

    project: str = _PROJECT
    """The program's name: what stands before the colon of its settings."""

    @property
    def on_lab(self) -> bool:
        """Whether it runs on the lab and not on a cluster of its own."""
        return self.config is not None

    def cluster(self) -> list[str]:
        """The arguments that lead kubectl, and programs with its flags, to the stack's cluster."""
        settings = _settings(self.config or self.program / f"Pulumi.{self.name}.yaml")
        context, kubeconfig = (settings.get(key) for key in _address(self.project))
        if kubeconfig:
            # the settings say it as the program sees it
            kubeconfig = os.path.relpath(self.program / kubeconfig, ROOT)
        found = {"--context": context, "--kubeconfig": kubeconfig}
        return [word for flag, value in found.items() if value for word in (flag, value)]

    def setting(self, key: str) -> str | None:
        """A setting of the stack, else its default; None where it has neither."""
        settings = _settings(self.config or self.program / f"Pulumi.{self.name}.yaml")
        declared = (_read(self.program / "Pulumi.yaml").get("config") or {}).get(key) or {}
        found = settings.get(f"{self.project}:{key}", declared.get("default"))
        return None if found is None else as_text(found)

    def call(self, *words: str, quiet: bool = False) -> int:
        """Run any program in these surroundings and return its exit code."""
        output = subprocess.DEVNULL if quiet else None
        environment = {**os.environ, **self.variables}
        return subprocess.run(
            words, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False
        ).returncode

    def read(self, *words: str, stdin: str | None = None) -> str:
        """What a program prints.

        Raises:
            LabError: it failed; the message is its error output.
        """
        environment = {**os.environ, **self.variables}
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"{' '.join(words)}:\n{done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def pulumi(self, *words: str) -> list[str]:
        """The command line of `pulumi ...` for this stack, which is made on first use.

        After an update that was killed its lock is taken away. Before an `up` what it was deleting
        is deleted to the end, for what is half deleted looks as if it were there; and the `up`
        looks at the cluster again, because the state does not say how far the other one came.

        Raises:
            LabError: the stack could not be made, or what was half deleted not be deleted.
        """
        where = () if self.program == ROOT else ("-C", str(self.program))
        if self.call("pulumi", *where, "stack", "select", self.name, quiet=True):
            # `stack init` knows no --config-file: it writes the salt of the stack's secrets beside
            # the project file, and that must not be the one under version control
            folder = self.config.parent if self.config else self.program
            if self.config:
                shutil.copy(self.program / "Pulumi.yaml", folder)
            self.read("pulumi", "stack", "init", self.name, "--non-interactive", "-C", str(folder))
        known = self.config and words[0] in _TAKES_CONFIG_FILE
        file = ["--config-file", str(self.config)] if known else []
        if words[0] in _UPDATES and self.cut_off():
            print("an update was killed: its lock is removed", file=sys.stderr)
            self.read("pulumi", *where, "cancel", "--yes", "--stack", self.name)
            if words[0] == "up":
                self._delete_to_the_end(where)
                words += ("--refresh",)
        return ["pulumi", *where, *words, "--stack", self.name, *file]

    def _delete_to_the_end(self, where: Sequence[str]) -> None:
        """Finish the deletions that an update was killed in.

        Raises:
            LabError: something is still there after several tries.
        """
        state = self._state(where)
        pending = state.get("pending_operations") or ()
        urns = {one["resource"]["urn"] for one in pending if one["type"] == "deleting"}
        # the old one of a replacement has the name of the new one, and goes with the next update
        urns -= {one["urn"] for one in state.get("resources") or () if one.get("delete")}
        names = ", ".join(sorted(urn.rpartition("::")[2] for urn in urns))
        if names:
            print(f"what it was deleting is deleted to the end: {names}", file=sys.stderr)
        tries, why = 0, ""
        while left := sorted(urns & {one["urn"] for one in state.get("resources") or ()}):
            if tries == _TRIES:
                raise LabError(f"{names} cannot be deleted. {why}")
            tries += 1
            targets = [word for urn in left for word in ("--target", urn)]
            yes = ("--yes", "--skip-preview", "--non-interactive", "--refresh")
            # a plugin that outlived the CLI may be at it, too: then one of the two fails
            try:
                self.read(*self.pulumi("destroy", *yes, *targets))
            except LabError as error:
                why = str(error)
            state = self._state(where)

    def _state(self, where: Sequence[str]) -> dict[str, Any]:
        exported = self.read("pulumi", *where, "stack", "export", "--stack", self.name)
        state: dict[str, Any] = json.loads(exported)["deployment"]
        return state

    def cut_off(self) -> bool:
        """Whether the stack is locked by updates of this machine alone that no longer run.

        Only a lock in local files is judged: of another backend's the CLI itself must be asked.
        """
        backend = urlsplit(self.variables.get("PULUMI_BACKEND_URL", ""))
        if backend.scheme != "file":
            return False
        locks = Path(unquote(backend.path), ".pulumi", "locks", "organization", self.project)
        owners = [json.loads(lock.read_text()) for lock in (locks / self.name).glob("*.json")]
        return bool(owners) and all(_is_gone(owner) for owner in owners)


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether a lock's owner is a process of this machine that has ended."""
    if owner["hostname"] != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # somebody else's, and alive
    return False


def open_stack(name: str, paths: LabPaths) -> Stack:
    """The stack, on a running lab unless its settings name another cluster.

    Raises:
        LabError: the lab did not start.
        ToolchainError: a program could not be had.
    """
    if not needs_lab(name):
        return Stack(name=name, variables=_own_backend(ROOT / ".state"), config=None)
    tools = _start(paths)
    config = write_settings(name, paths)
    return Stack(name=name, variables=variables(paths, tools), config=config)


def open_example(program: Path, paths: LabPaths) -> Stack:
    """The stack `lab` of an example, which takes the settings that a lab needs, on a running lab.

    Raises:
        LabError: the lab did not start.
        ToolchainError: a program could not be had.
    """
    tools = _start(paths)
    config = paths.state / "Pulumi.lab.yaml"
    project = str(_read(program / "Pulumi.yaml")["name"])
    if not config.exists():
        needed = overlay(paths, project, program)
        config.write_text(yaml.safe_dump({"config": needed}, sort_keys=False))
    return Stack(
        name="lab",
        variables=variables(paths, tools),
        config=config,
        program=program,
        project=project,
    )


def _start(paths: LabPaths) -> Tools:
    """A running lab with Istio's charts beside it."""
    tools = ensure([*TOOLS, "charts"])
    if not paths.charts.exists():
        shutil.copytree(tools.share / "charts", paths.charts)
    up(paths)
    return tools


def write_settings(name: str, paths: LabPaths) -> Path:
    """Write the stack's settings on the lab: its own, what the lab needs, and `config set` on it.

    What a person set or removed on the lab lasts as long as the lab, whatever is written anew.
    """
    own = ROOT / f"Pulumi.{name}.yaml"
    config = paths.state / own.name
    written = paths.state / f"Pulumi.{name}.written.yaml"
    needed = overlay(paths)
    fresh = {**_settings(own), **needed}
    now = _settings(config)
    before = _settings(written) if config.exists() and written.exists() else now
    chosen = {k: v for k, v in now.items() if k not in before or as_text(before[k]) != as_text(v)}
    settings = {**fresh, **chosen}
    for key in before.keys() - now.keys():
        settings.pop(key, None)
    # a stack on the lab has no other cluster: that choice belongs to the stack's own file
    settings |= {key: needed[key] for key in _address(_PROJECT)}
    # the CLI keeps the salt of the stack's secrets in the file
    merged = {**_read(config), **_read(own), "config": settings}
    config.write_text(yaml.safe_dump(merged, sort_keys=False))
    written.write_text(yaml.safe_dump({"config": fresh}, sort_keys=False))
    return config


def needs_lab(name: str) -> bool:
    """Whether the stack's settings name no cluster."""
    return not _settings(ROOT / f"Pulumi.{name}.yaml").get("service-mesh:kubeContext")


def overlay(
    paths: LabPaths, project: str = _PROJECT, program: Path | None = None
) -> dict[str, Any]:
    """Settings that only the lab needs, on top of the stack's own."""
    needed = {
        "kubeContext": CONTEXT,
        "kubeconfig": os.path.relpath(paths.kubeconfig, program or ROOT),
        "chartSource": os.path.relpath(paths.charts, program or ROOT),
        "istioVersion": _ISTIO,
        # upstream's Envoy lacks the filters that Istio builds into its own
        "telemetry": False,
        "istiodEnv": {
            "PILOT_ENABLE_METADATA_EXCHANGE": "false",
            "PILOT_ENABLE_ALPN_FILTER": "false",
        },
    }
    return {f"{project}:{key}": value for key, value in needed.items()}


def offline(paths: LabPaths, charts: Path) -> dict[str, Any]:
    """The same without a cluster: no address of one, and charts that need no lab."""
    needed = overlay(paths) | {f"{_PROJECT}:chartSource": str(charts)}
    return {key: value for key, value in needed.items() if key not in _address(_PROJECT)}


def variables(paths: LabPaths, tools: Tools) -> dict[str, str]:
    """Environment in which `pulumi`, `kubectl`, `helm` and `istioctl` work on the lab."""
    return {
        **_backend(paths.pulumi),
        "PATH": f"{tools.bin_dir}{os.pathsep}{os.environ['PATH']}",
        "KUBECONFIG": str(paths.kubeconfig),
        "PULUMI_HOME": str(paths.pulumi / "home"),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # no warning that the provider is another version than the SDK: the lab says so itself
        "PULUMI_DEV": "true",
        "LAB_PYTHON": sys.executable,
        "LAB_ROOT": str(ROOT),
    }


def _own_backend(folder: Path) -> dict[str, str]:
    """The backend a person is logged in to; without one, state in a folder of the checkout."""
    if "PULUMI_BACKEND_URL" in os.environ:
        return {}
    if not subprocess.run(["pulumi", "whoami"], capture_output=True, check=False).returncode:
        return {}
    return _backend(folder)


def _backend(folder: Path) -> dict[str, str]:
    """State in local files, secrets encrypted with a passphrase made on first use."""
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    passphrase = folder / "passphrase"
    if not passphrase.exists():
        passphrase.touch(mode=0o600)
        passphrase.write_text(secrets.token_urlsafe(24))
    return {
        "PULUMI_BACKEND_URL": state.as_uri(),
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
    }


def _address(project: str) -> tuple[str, str]:
    """The settings that say which cluster."""
    return f"{project}:kubeContext", f"{project}:kubeconfig"


def as_text(value: object) -> str:
    """A setting as the CLI stores it: it makes strings of the numbers and booleans of a file."""
    return value if isinstance(value, str) else json.dumps(value)


def _read(path: Path) -> dict[str, Any]:
    """A settings file; empty where there is none."""
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def _settings(path: Path) -> dict[str, Any]:
    """The settings in a file, by their full keys."""
    return _read(path).get("config") or {}
