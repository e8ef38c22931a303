"""A bench of faults: after each, what must be typed until the cluster is as declared again?

Every fault hits a whole stack on a lab of its own. Then a person's commands are tried, the plainest
first, and the cluster is compared with what an undisturbed update had made.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import yaml

from lab.lifecycle import LabError
from lab.paths import ROOT, LabPaths
from lab.stack import Stack

STACK: Final = "chaos"

UP: Final = ("up", "--yes", "--skip-preview")
DESTROY: Final = ("destroy", "--yes", "--skip-preview")

SETTINGS: Final = {
    "profile": "minimal",
    "bookinfo": "false",
    "keepCrds": "false",
    "mtlsHosts": ["reviews"],
}
"""Every kind of thing that a stack is made of, namespaces, Helm releases and Istio's objects, and
no more: a whole dev stack takes three times as long and has more of the same."""

_KINDS = (
    "namespaces,serviceaccounts,configmaps,services,deployments,horizontalpodautoscalers,"
    "poddisruptionbudgets,roles,rolebindings,clusterroles,clusterrolebindings,"
    "customresourcedefinitions,mutatingwebhookconfigurations,validatingwebhookconfigurations"
)
_ISTIO_KINDS = "peerauthentications,destinationrules"
_UNTOLD = frozenset({"caBundle", "clusterIP", "clusterIPs", "nodePort", "healthCheckNodePort"})
"""What the cluster or istiod fills in, another value each time."""

_STEP = re.compile(r" (creat|delet)(ing|ed) \(")

_HANDED_OUT = {
    "ConfigMap": ("istio-ca-crl", "istio-ca-root-cert", "kube-root-ca.crt"),
    "ServiceAccount": ("default",),
}
"""What controllers put into every namespace, each in its own time: an istiod whose predecessor did
not give its lease back waits up to 30 s before it does. Nobody has declared them."""

_READY_WITHIN_S = 60
_LONGEST = 240
"""Characters of what a program said, in a cell of the table."""


class Typed(IntEnum):
    """What a person types after a fault, from nothing special to most."""

    UP = 0
    """`make up`, as ever."""

    REFRESH = 1
    """`pulumi up --refresh`: what was changed behind Pulumi's back is looked at. While a namespace
    is being deleted it is refused, so not before that is over."""

    REAPPLY = 2
    """What Helm has recorded is applied again, for what Helm made: nobody looks at it. Then as
    above."""

    DESTROY = 3
    """`pulumi destroy`, then an update."""

    @property
    def command(self) -> str:
        """How it is written in a table."""
        return _COMMANDS[self]


_REAPPLY = (
    "helm get manifest {name} --namespace {namespace} | "
    "kubectl apply --server-side --force-conflicts --filename -"
)

_COMMANDS = {
    Typed.UP: "make up",
    Typed.REFRESH: "pulumi up --refresh",
    Typed.REAPPLY: f"{_REAPPLY.format(name='RELEASE', namespace='NAMESPACE')}; pulumi up --refresh",
    Typed.DESTROY: "pulumi destroy; pulumi up",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that goes wrong."""

    name: str
    """What ONLY= takes; kills have the number of the line at which they strike."""

    strike: Callable[[Bench], str]
    """Does it, to a whole stack, and returns what was seen."""

    heals: Typed = Typed.UP
    """The most that may have to be typed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A fault and what became of it."""

    fault: str
    happened: str
    allowed: Typed
    typed: Typed | None
    """What brought the declared state back; None: nothing did."""

    seconds: float
    """From the fault to the end of the second preview."""

    @property
    def ok(self) -> bool:
        """Whether it healed, with no more than was said."""
        return self.typed is not None and self.typed <= self.allowed


def steps(said: Iterable[str]) -> Iterator[str]:
    """The lines of an update that say how far it is; other lines come with the time."""
    return (line for line in said if _STEP.search(line))


def points(lines: int, count: int, seed: int, *, of: str) -> list[int]:
    """Steps of an update at which it is killed, in the order of time.

    Steps and not seconds: a point is the same one on a slow machine.

    Args:
        lines: How many steps an undisturbed run has, as `steps` counts them.
        count: How many points; fewer come out where there are fewer steps.
        seed: The same seed gives the same points.
        of: What is killed; up and destroy get points of their own.
    """
    return sorted(random.Random(f"{seed} {of}").sample(range(1, lines + 1), min(count, lines)))  # noqa: S311


def table(rows: Sequence[Row], left_out: Sequence[str] = ()) -> str:
    """The rows as Markdown, and what there was no time for."""
    head = ("Fault", "What happened", "What had to be typed", "Declared state", "Seconds")
    cells = [
        (
            row.fault,
            row.happened,
            row.typed.command.replace("|", "\\|") if row.typed is not None else "nothing helped",
            "✅" if row.ok else "❌",
            f"{row.seconds:.0f}",
        )
        for row in rows
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *cells)]
    if left_out:
        lines.append(f"no time for: {', '.join(left_out)}")
    return "\n".join(lines)


def told(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """A part of an object without what the cluster fills in."""
    if isinstance(value, dict):
        return {key: told(part) for key, part in value.items() if key not in _UNTOLD}
    return [told(part) for part in value] if isinstance(value, list) else value


def handed_out(item: dict[str, Any]) -> bool:
    """Whether controllers, and nobody else, put an object where it is."""
    return item["metadata"]["name"] in _HANDED_OUT.get(item["kind"], ())


def fingerprint(item: dict[str, Any]) -> tuple[str, str]:
    """An object's name, and a digest of what it says."""
    meta = item["metadata"]
    name = f"{item['kind']} {meta.get('namespace', '-')}/{meta['name']}"
    # an object that goes is not what was declared, whatever it says
    said = {
        "going": "deletionTimestamp" in meta,
        "labels": meta.get("labels"),
        **{
            key: told(item.get(key))
            for key in ("spec", "data", "rules", "roleRef", "subjects", "webhooks")
        },
    }
    if item["kind"] == "Namespace":
        said.pop("spec", None)
    return name, hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is missing, too much or otherwise, by name."""
    return [
        *(f"missing {name}" for name in sorted(wanted.keys() - found.keys())),
        *(f"unexpected {name}" for name in sorted(found.keys() - wanted.keys())),
        *(
            f"other {name}"
            for name in sorted(wanted)
            if found.get(name, wanted[name]) != wanted[name]
        ),
    ]


class Bench:
    """A stack on a lab, that faults are done to."""

    def __init__(self, paths: LabPaths, opened: Stack) -> None:
        self.paths = paths
        self.opened = opened
        self.wanted: dict[str, str] = {}
        """The cluster as an undisturbed update leaves it."""

    # --- what a person does

    def start(self, *words: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The CLI, in a process group of its own; its output is a pipe."""
        command = self.opened.pulumi(*words, "--non-interactive")
        return subprocess.Popen(
            [*prefix, *command],
            cwd=ROOT,
            env={**os.environ, **self.opened.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def pulumi(self, *words: str, prefix: Sequence[str] = ()) -> tuple[int, str]:
        """Run the CLI to its end; its exit code and what it said."""
        process = self.start(*words, prefix=prefix)
        said = process.communicate()[0]
        return process.returncode, said

    def up(self, *words: str) -> tuple[int, str]:
        """An update without the preview before it."""
        return self.pulumi(*UP, *words)

    def destroy(self) -> tuple[int, str]:
        """Take the stack away."""
        return self.pulumi(*DESTROY)

    def run(self, *words: str) -> tuple[int, str]:
        """Any program on the lab."""
        done = subprocess.run(
            words,
            cwd=ROOT,
            env={**os.environ, **self.opened.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def must(self, *words: str) -> str:
        """The same, where it has to work.

        Raises:
            LabError: it failed.
        """
        code, said = self.run(*words)
        if code:
            raise LabError(f"{shlex.join(words)}:\n{said.strip()}")
        return said

    def set(self, **settings: object) -> None:
        """Change settings of the stack."""
        config = self.opened.config
        if config is None:
            raise LabError("faults are for a stack on a lab")
        document = yaml.safe_load(config.read_text())
        document["config"] |= {f"{self.opened.project}:{key}": v for key, v in settings.items()}
        config.write_text(yaml.safe_dump(document, sort_keys=False))

    # --- what is there

    def found(self) -> dict[str, str]:
        """Fingerprints of the cluster's objects, and the status of every Helm release."""
        items = json.loads(self.must("kubectl", "get", "-A", _KINDS, "-o", "json"))["items"]
        code, istio = self.run("kubectl", "get", "-A", _ISTIO_KINDS, "-o", "json")
        if code == 0:  # else there are no such kinds
            items += json.loads(istio)["items"]
        helm = {f"release {one['name']}": one["status"] for one in self.releases()}
        declared = (one for one in items if not handed_out(one))
        return {**dict(map(fingerprint, declared)), **helm}

    def releases(self) -> list[dict[str, str]]:
        """The newest record of every Helm release: name, namespace, version and status.

        `helm list` shows the ones in progress with a flag that Helm 4 does not have.
        """
        found = self.must("kubectl", "get", "secrets", "-A", "-l", "owner=helm", "-o", "json")
        records = [
            {**one["metadata"]["labels"], "namespace": one["metadata"]["namespace"]}
            for one in json.loads(found)["items"]
        ]
        newest = sorted(records, key=lambda one: int(one["version"]))
        return list({(one["namespace"], one["name"]): one for one in newest}.values())

    def declared(self) -> list[str]:
        """What is not as declared: the cluster, its pods, and what a preview would do."""
        if wrong := differences(self.wanted, self.found()):
            return wrong
        wait = ("rollout", "status", "deployment/istiod", f"--timeout={_READY_WITHIN_S}s")
        if self.run("kubectl", "-n", "istio-system", *wait)[0]:
            return ["istiod is not ready"]
        for words in ((), ("--refresh",)):
            code, said = self.pulumi("preview", "--expect-no-changes", *words)
            if code:
                return [f"preview {' '.join(words)}: {last(said)}"]
        return []

    # --- faults

    def killed(
        self,
        words: Sequence[str],
        at: int | str,
        *,
        all_of_it: bool,
        wait: Callable[[], object] = lambda: None,
    ) -> str:
        """Start an update and kill it (-9) at a step that it prints.

        Args:
            words: The CLI's words.
            at: The step's number, or a text in it; at the end, where there is no such step.
            all_of_it: Its plugins, too, as a machine that stops does. Else they end by themselves,
                and finish what they are at.
            wait: Called between the step and the kill.
        """
        process = self.start(*words)
        seen = ""
        for number, text in enumerate(steps(process.stdout or ()), start=1):
            seen = text
            if at in text if isinstance(at, str) else number >= at:
                break
        wait()
        plugins = children(process.pid) if all_of_it else []
        # its own group, which this process started; plugins have groups of their own
        os.killpg(process.pid, signal.SIGKILL)
        for plugin in plugins:
            os.kill(plugin, signal.SIGKILL)
        process.communicate()
        what = "with its plugins" if all_of_it else "alone"
        return f"killed {what} after `{' '.join(seen.split())[:60]}`"

    def until(self, release: str, status: str) -> None:
        """Wait until Helm says so of a release.

        Raises:
            LabError: it did not within a minute.
        """
        deadline = time.monotonic() + _READY_WITHIN_S
        while (release, status) not in {(one["name"], one["status"]) for one in self.releases()}:
            if time.monotonic() > deadline:
                raise LabError(f"Helm's release {release} did not become {status}")

    def namespaces_gone(self) -> None:
        """Wait, as an update that is refused says, until no namespace is being deleted."""
        found = json.loads(self.must("kubectl", "get", "namespaces", "-o", "json"))["items"]
        going = [one for one in found if "deletionTimestamp" in one["metadata"]]
        for one in going:
            name = f"namespace/{one['metadata']['name']}"
            self.run("kubectl", "wait", "--for=delete", name, f"--timeout={_READY_WITHIN_S}s")

    def heal(self, most: Typed) -> tuple[Typed | None, str]:
        """Type what is plain, then what a fault is said to need, until all is as declared.

        Returns:
            What helped, and why nothing before it did.
        """
        tried = ""
        for typed in dict.fromkeys((Typed.UP, Typed.REFRESH, most)):
            if typed > most:
                break
            code, said = self.type(typed)
            wrong = [last(said)] if code else self.declared()
            if not wrong:
                return typed, tried
            tried += f"; `{typed.command}`: {wrong[0]}"
        return None, tried

    def type(self, typed: Typed) -> tuple[int, str]:
        """Do what it says."""
        match typed:
            case Typed.UP:
                return self.up()
            case Typed.REFRESH:
                self.namespaces_gone()
                return self.up("--refresh")
            case Typed.REAPPLY:
                commands = [_REAPPLY.format_map(one) for one in self.releases()]
                script = "; ".join(["set -eo pipefail", *commands])
                code, said = self.run("bash", "-c", script)
                return self.up("--refresh") if code == 0 else (code, said)
            case Typed.DESTROY:
                code, said = self.destroy()
                return self.up() if code == 0 else (code, said)

    def suffer(self, fault: Fault) -> Row:
        """Do it, heal it, and say how that went."""
        began = time.monotonic()
        try:
            happened = fault.strike(self)
            typed, why = self.heal(fault.heals)
        except LabError as error:
            # the other faults are worth their rows all the same
            typed, happened, why = None, f"the bench itself failed: {last(str(error))}", ""
        return Row(
            fault=fault.name,
            happened=happened + why,
            allowed=fault.heals,
            typed=typed,
            seconds=time.monotonic() - began,
        )


def last(said: str) -> str:
    """The sentence that says most: an error, or else the last line; no table is broken by it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    at = next((n for n, line in enumerate(lines) if line.startswith("error:")), len(lines) - 1)
    found = lines[at : at + 2]
    # the first line alone may only name a setting, or begin a list
    if not (found[0].endswith(":") or found[-1].startswith("allowed:")):
        found = found[:1]
    return " ".join(found).replace("|", "/")[:_LONGEST]


def children(pid: int) -> list[int]:
    """Processes that a process has started, by their ids."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 (a file of /proc)
            direct = [int(word) for word in file.read().split()]
    except OSError:
        return []
    return [one for child in direct for one in (child, *children(child))]
