"""The dev stack beside istioctl and kubectl, where its seconds go, and how a preview grows.

`python -m bench.stack_bench`, on a lab of its own. Both ways install the same objects and end when
the same is true: every Deployment is available, or nothing of it is left.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.timeline import Link, Span, began, longest_chain, spans, waits, waves
from lab.lifecycle import LabError, down
from lab.paths import ROOT, LabPaths
from lab.stack import Stack, open_example, open_stack

GROWTH = ROOT / "bench" / "growth"
"""The program whose preview is measured."""

_WAIT = "--timeout=300s"
_SYSTEM = "istio-system"
_YES = ("--yes", "--skip-preview")
_LEFT_WITHIN_S = 60.0
_SHOWN = 8

_SECRET = {"4dabf18193072939515e22adb298388d", "plaintext"}
"""Keys of a secret in an exported state; the first is Pulumi's own signature."""

_WHY = {
    "Release": "Helm, until the release's objects are ready or gone",
    "Deployment": "pods, until they are ready or gone",
    "Namespace": "a namespace, until it is there, or all inside has gone",
}
"""What a resource of a type waits for, beside the API server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objects:
    """What the other way installs: the stack's own objects, as its state has them."""

    operator: str
    """File of the IstioOperator: the values of the stack's releases."""

    applied: str
    """File of the objects that are in no release."""


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _all_available(stack: Stack) -> None:
    words = ("--for=condition=Available", "deployments", "--all", "--all-namespaces", _WAIT)
    stack.read("kubectl", "wait", *words)


def _nothing_left(stack: Stack) -> None:
    """Wait until no namespace but Kubernetes' own, no CRD and no webhook is there.

    Raises:
        LabError: something still is.
    """
    kinds = "namespaces,crds,mutatingwebhookconfigurations,validatingwebhookconfigurations"
    deadline = time.monotonic() + _LEFT_WITHIN_S
    while True:
        names = stack.read("kubectl", "get", kinds, "-o", "name").split()
        left = [
            one for one in names if not one.startswith(("namespace/kube-", "namespace/default"))
        ]
        if not left:
            return
        if time.monotonic() > deadline:
            raise LabError(f"still there: {' '.join(left)}")
        time.sleep(0.2)


def _watched(stack: Stack, *words: str) -> list[tuple[float, str]]:
    """Run the CLI with `--json` and note when each line came.

    Raises:
        LabError: it failed.
    """
    lines: list[tuple[float, str]] = []
    command = stack.pulumi(*words, "--json")
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **stack.variables},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101 it is a pipe
        lines += [(time.perf_counter() - started, line) for line in process.stdout]
    if process.returncode:
        raise LabError(f"{' '.join(command)}:\n" + "".join(line for _, line in lines[-20:]))
    return lines


def _resources(stack: Stack) -> list[dict[str, Any]]:
    words = stack.pulumi("stack", "export", "--show-secrets")
    found: list[dict[str, Any]] = json.loads(stack.read(*words))["deployment"]["resources"]
    return found


def _objects(resources: Sequence[dict[str, Any]], folder: Path) -> Objects:
    """Write what istioctl and kubectl take."""
    inputs = {one["urn"].rpartition("::")[2]: one.get("inputs", {}) for one in resources}
    values = inputs["istio-istiod"]["values"]
    gateway = inputs["ingress-release"]["values"]["service"]["type"]
    operator = {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "spec": {
            "profile": values.get("profile", "default"),
            "values": {
                # istioctl has other words for these, and none for `base`
                **{k: v for k, v in values.items() if k not in ("base", "meshConfig", "profile")},
                "gateways": {"istio-ingressgateway": {"type": gateway}},
            },
            "meshConfig": values["meshConfig"],
        },
    }
    found = [
        one["inputs"]
        for one in resources
        if one.get("custom") and {"apiVersion", "kind"} <= one.get("inputs", {}).keys()
    ]
    # namespaces first, as a person would write them
    found.sort(key=lambda one: one["kind"] != "Namespace")
    plain = [_plain(one) for one in found]
    paths = folder / "operator.yaml", folder / "objects.yaml"
    paths[0].write_text(yaml.safe_dump(operator))
    paths[1].write_text(yaml.safe_dump_all(plain))
    return Objects(operator=str(paths[0]), applied=str(paths[1]))


def _plain(value: Any) -> Any:  # noqa: ANN401 any JSON
    """A value of the state without the wrapping of secrets."""
    if isinstance(value, dict):
        if value.keys() == _SECRET:
            return json.loads(value["plaintext"])
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


@dataclass(kw_only=True, slots=True)
class Race:
    """The two ways, one after the other, on one lab."""

    stack: Stack
    folder: Path
    ours: dict[str, list[float]]
    theirs: dict[str, list[float]]
    parts: dict[str, list[float]]
    """The commands of the other way."""

    shown: list[str]
    """Where our last round's seconds went."""

    objects: Objects | None = None

    def our_round(self) -> None:
        """Up, up again, a preview, destroy."""
        lines: list[tuple[float, str]] = []

        def update() -> None:
            lines[:] = _watched(self.stack, "up", *_YES)
            _all_available(self.stack)

        self._note(self.ours, "up", _timed(update))
        resources = _resources(self.stack)
        order = waits(resources)
        self.shown = ["", "up: where our seconds go", *account(lines, order)]
        self.objects = self.objects or _objects(resources, self.folder)

        def again() -> None:
            lines[:] = _watched(self.stack, "up", *_YES)

        self._note(self.ours, "up, no change", _timed(again))
        self.shown += ["", "up, no change: where our seconds go", *account(lines, order)]
        self._note(self.ours, "preview, no change", _timed(lambda: self._pulumi("preview")))

        def destroy() -> None:
            lines[:] = _watched(self.stack, "destroy", *_YES)
            _nothing_left(self.stack)

        self._note(self.ours, "destroy", _timed(destroy))
        self.shown += ["", "destroy: where our seconds go", *account(lines, waves(order))]

    def their_round(self) -> None:
        """The same by istioctl and kubectl.

        Raises:
            LabError: a command failed, or there was no round of ours before.
        """
        if self.objects is None:
            raise LabError("the first round is ours: it says which objects there are")
        install = ("istioctl", "install", "-y", "-f", self.objects.operator)
        apply = ("kubectl", "apply", "-f", self.objects.applied)

        def installed() -> list[float]:
            return [
                self._part("istioctl install", lambda: self._read(*install)),
                self._part("kubectl apply", lambda: self._read(*apply)),
                self._part("kubectl wait", lambda: _all_available(self.stack)),
            ]

        self._note(self.theirs, "up", sum(installed()))

        def again() -> None:
            self._read(*install)
            self._read(*apply)

        self._note(self.theirs, "up, no change", _timed(again))
        looked = ("istioctl", "install", "--dry-run", "-y", "-f", self.objects.operator)
        difference = ("kubectl", "diff", "-f", self.objects.applied)

        def preview() -> None:
            self._read(*looked)
            # its exit code 1 is an answer
            self.stack.call(*difference, quiet=True)

        self._note(self.theirs, "preview, no change", _timed(preview))
        delete = ("kubectl", "delete", "--ignore-not-found", _WAIT)
        gone = [
            self._part("kubectl delete", lambda: self._read(*delete, "-f", self._but_system())),
            self._part(
                "istioctl uninstall", lambda: self._read("istioctl", "uninstall", "--purge", "-y")
            ),
            self._part(
                "kubectl delete namespace", lambda: self._read(*delete, "namespace", _SYSTEM)
            ),
            _timed(lambda: _nothing_left(self.stack)),
        ]
        self._note(self.theirs, "destroy", sum(gone))

    def table(self) -> list[str]:
        """Medians side by side, and all figures."""
        lines = [f"{'':22}{'ours':>9}{'theirs':>9}{'ratio':>7}   all rounds, ours | theirs"]
        totals = [0.0, 0.0]
        for name, mine in self.ours.items():
            other = self.theirs[name]
            pair = statistics.median(mine), statistics.median(other)
            totals = [totals[0] + pair[0], totals[1] + pair[1]]
            every = f"{_figures(mine)} | {_figures(other)}"
            lines.append(_row(name, *pair) + f"   {every}")
        lines.append(_row("the whole", totals[0], totals[1]))
        parts = [f"{name} {statistics.median(took):.1f} s" for name, took in self.parts.items()]
        return [*lines, f"theirs: {', '.join(parts)}"]

    def _but_system(self) -> str:
        """The objects without the namespace of istiod, which goes last."""
        assert self.objects is not None  # noqa: S101 a round of ours was before
        file = self.folder / "deleted.yaml"
        every = list(yaml.safe_load_all(Path(self.objects.applied).read_text()))
        system = ("Namespace", _SYSTEM)
        file.write_text(
            yaml.safe_dump_all(
                one for one in every if (one["kind"], one["metadata"]["name"]) != system
            )
        )
        return str(file)

    def _part(self, name: str, action: Callable[[], object]) -> float:
        took = _timed(action)
        self.parts.setdefault(name, []).append(took)
        return took

    def _pulumi(self, *words: str) -> None:
        self._read(*self.stack.pulumi(*words))

    def _read(self, *words: str) -> None:
        self.stack.read(*words)

    @staticmethod
    def _note(where: dict[str, list[float]], name: str, took: float) -> None:
        where.setdefault(name, []).append(took)
        _say(f"{name}: {took:.1f} s")


def _row(name: str, mine: float, other: float) -> str:
    return f"{name:22}{mine:>7.1f} s{other:>7.1f} s{mine / other:>7.2f}"


def _figures(every: Sequence[float]) -> str:
    return " ".join(f"{one:.1f}" for one in every)


def account(lines: Sequence[tuple[float, str]], order: dict[str, frozenset[str]]) -> list[str]:
    """Where a command's seconds went: its longest chain, and what else took long."""
    found = spans(lines)
    chain = longest_chain(found, order)
    if not chain:
        return ["nothing was done"]
    whole, last = lines[-1][0], chain[-1].span.end
    reasons: dict[str, float] = {}
    for link in chain:
        why = _why(link.span)
        reasons[why] = reasons.get(why, 0.0) + link.span.seconds
    idle = sum(link.idle for link in chain[1:])
    engine, program = began(lines, chain[0].span.start)
    sums = {
        "until the engine's first word": engine,
        "until the program has begun: the plugins, Python and Pulumi's SDK": program - engine,
        "until the first object: imports, questions to the cluster": chain[0].idle - program,
        **reasons,
        "between two objects of the chain: engine and Python": idle,
        "after the last object": whole - last,
    }
    return [
        f"{whole:6.1f} s in all; the longest chain:",
        *(_link(link) for link in chain if link.span.seconds + link.idle >= 0.1),  # noqa: PLR2004
        "by what is waited for:",
        *(f"{took:6.1f} s  {why}" for why, took in sorted(sums.items(), key=lambda s: -s[1])),
        "the longest turns, in the chain or beside it:",
        *(
            f"{one.seconds:6.1f} s  from {one.start:5.1f} s  {one.kind} {one.name}"
            for one in sorted(found, key=lambda one: -one.seconds)[:_SHOWN]
        ),
    ]


def _link(link: Link) -> str:
    one = link.span
    when = f"{one.start:6.1f} to {one.end:5.1f} s, idle before {link.idle:4.1f} s"
    return f"  {when}  {one.kind} {one.name}"


def _why(span: Span) -> str:
    return _WHY.get(span.kind, "the API server and its webhooks")


class Peaks:
    """The highest memory of each program that a command starts, read from /proc as it runs."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float]] = {}

    def watch(self, pid: int, ended: threading.Event) -> None:
        """Look at the process and all below it, until the event is set."""
        while not ended.wait(0.1):
            self._look(pid)

    def of(self, program: str) -> float:
        """Resident memory in MB, summed over the processes with that in their command."""
        return sum(peak for command, peak in self._seen.values() if program in command)

    def _look(self, pid: int) -> None:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            status = Path(f"/proc/{pid}/status").read_text()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for thread in Path(f"/proc/{pid}/task").iterdir():
                children += (thread / "children").read_text().split()
        except OSError:
            return  # it has just ended
        _, _, high = status.partition("VmHWM:")
        if high:
            command = " ".join([Path(words[0]).name, *words[1:]])
            self._seen[pid] = (command, int(high.split()[0]) / 1024)
        for child in dict.fromkeys(children):
            self._look(int(child))


def _previewed(stack: Stack, workloads: int) -> str:
    """Preview a first update of so many workloads, and say what it took."""
    command = stack.pulumi("preview", "--config", f"workloads={workloads}", "--json")
    peaks, ended = Peaks(), threading.Event()
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **stack.variables}, stdout=output, text=True
        ) as process,
    ):
        watcher = threading.Thread(target=peaks.watch, args=(process.pid, ended))
        watcher.start()
        process.wait()
        took = time.perf_counter() - started
        ended.set()
        watcher.join()
        output.seek(0)
        document = json.load(output)
    if process.returncode:
        raise LabError(f"{' '.join(command)}: {document.get('diagnostics')}")
    count = len(document["steps"])
    return (
        f"{workloads:>9}{count:>11}{took:>8.1f} s{1000 * took / count:>9.1f} ms"
        f"{peaks.of('pulumi -C'):>9.0f} MB"
        f"{peaks.of('language_host'):>8.0f} MB{peaks.of('resource-kubernetes'):>8.0f} MB"
    )


def growth(paths: LabPaths, sizes: Sequence[int]) -> list[str]:
    """A first preview against the number of workloads."""
    stack = open_example(GROWTH, paths)
    # without its CRDs the provider would look for each Istio kind again and again
    stack.read("kubectl", "apply", "-f", str(paths.charts / "base" / "files" / "crd-all.gen.yaml"))
    head = f"{'each':>12}{'CLI':>12}{'Python':>11}{'provider':>11}"
    lines = [f"{'workloads':>9}{'resources':>11}{'preview':>10}{head}"]
    for size in sizes:
        lines.append(_previewed(stack, size))
        _say(lines[-1])
    return lines


def main() -> None:
    """Run what was asked for, and take the lab down whatever happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="of each way; 0: none")
    parser.add_argument("--workloads", type=int, nargs="*", default=[5, 50, 500])
    asked = parser.parse_args()
    paths = LabPaths(state=ROOT / ".lab" / "bench")
    down(paths)
    try:
        lines: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            race = Race(
                stack=open_stack("dev", paths),
                folder=Path(folder),
                ours={},
                theirs={},
                parts={},
                shown=[],
            )
            race.stack.pulumi("stack")
            for number in range(asked.rounds):
                _say(f"round {number + 1} of {asked.rounds}: ours, then theirs")
                race.our_round()
                race.their_round()
            if asked.rounds:
                lines += [*race.table(), *race.shown]
        if asked.workloads:
            lines += ["", *growth(paths, asked.workloads)]
        sys.stdout.write("\n".join([*lines, ""]))
    finally:
        down(paths)
        shutil.rmtree(paths.state, ignore_errors=True)


if __name__ == "__main__":
    main()
