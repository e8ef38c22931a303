"""`python -m lab`: the embedded cluster, and Pulumi on it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lab import dashboard, offline, stack
from lab.chaos_faults import chaos
from lab.exercise import exercise
from lab.lifecycle import LabError, Running, down, running, up
from lab.paths import ROOT, LabPaths
from lab.playground import Playground
from lab.sandbox import Isolation
from lab.summary import summarise
from lab.toolchain import ToolchainError, ensure
from lab.verify import Intent, prove, sniff, table, witness_table, witnessed


def main() -> int:
    """Run one command and return the exit code."""
    arguments = _arguments()
    paths = LabPaths(state=arguments.state.resolve())
    try:
        match arguments.command:
            case "up":
                _show(paths, up(paths))
            case "down":
                print("the lab is gone" if down(paths) else "there was no lab")
            case "status":
                _show(paths, running(paths))
            case "url":
                print(_url(paths))
            case "env":
                for name, value in _variables(paths).items():
                    print(f"export {name}={shlex.quote(value)}")
            case "run":
                opened = stack.Stack(name="", variables=_variables(paths), config=None)
                return opened.call(*_words(arguments.words))
            case "destroy":
                return _destroy(arguments.stack, paths)
            case "exercise" | "chaos" | "render" | "pr-preview" | "doctor":
                return _without_the_lab(arguments, paths)
            case "dashboard":
                with dashboard.until_interrupted():
                    _dashboard(arguments, paths)
            case _:
                return _with_stack(arguments, paths)
    except (LabError, ToolchainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    state = Path(os.environ.get("LAB_STATE") or LabPaths().state)
    parser.add_argument("--state", type=Path, default=state, help="folder of the lab; $LAB_STATE")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the lab; nothing happens when it is up")
    commands.add_parser("down", help="stop the lab and remove all of it")
    commands.add_parser("url", help="print the address of the ingress gateway")
    commands.add_parser("status", help="say whether it is up, and where its logs are")
    commands.add_parser("env", help="print shell variables for pulumi, kubectl and istioctl")
    run = commands.add_parser("run", help="run a program with those variables")
    cli = commands.add_parser("pulumi", help="run the Pulumi CLI for a stack")
    preview = commands.add_parser("preview", help="what an update would change, releases included")
    markdown = commands.add_parser("pr-preview", help="the same as a comment for a pull request")
    summary = commands.add_parser("summary", help="what runs, what is STRICT, and the proof")
    verify = commands.add_parser("verify", help="prove that every edge is mutual TLS")
    sniff = commands.add_parser("sniff", help="show the bytes on the wire before and after STRICT")
    commands.add_parser("exercise", help="two services and strict mutual TLS, on a lab of its own")
    doctor = commands.add_parser("doctor", help="what is wrong with the cluster or the mesh")
    faults = commands.add_parser("chaos", help="a bench of faults, on a lab of its own")
    faults.add_argument("--seed", type=int, help="repeats a run's kills")
    faults.add_argument("--only", metavar="NAME", help="faults whose name begins so")
    faults.add_argument("--kills", type=int, default=20, help="how many, of up and destroy")
    faults.add_argument("--minutes", type=int, default=45, help="no fault is begun later")
    render = commands.add_parser("render", help="a stack's objects as YAML, without a cluster")
    for command in (markdown, render):
        command.add_argument("--base", metavar="REF", help="git ref to compare with, no cluster")
    destroy = commands.add_parser("destroy", help="destroy a stack, and stop the lab it ran on")
    show = commands.add_parser("dashboard", help="forward a port to a dashboard, until Ctrl-C")
    show.add_argument("part", choices=[part.value for part in dashboard.Part])
    show.add_argument("--port", type=int, help="local port, instead of the usual or a free one")
    for command in (cli, preview, markdown, summary, verify, sniff, render, destroy, show, doctor):
        command.add_argument("--stack", default="dev")
    for command in (run, cli):
        command.add_argument("words", nargs=argparse.REMAINDER)
    return parser.parse_args()


def _without_the_lab(arguments: argparse.Namespace, paths: LabPaths) -> int:
    """Commands that do not want the lab that may be running, or not always."""
    if arguments.command == "exercise":
        return exercise(paths)
    if arguments.command == "doctor":
        return _doctor(arguments.stack, paths)
    if arguments.command == "chaos":
        limit_s = arguments.minutes * 60
        only, count = arguments.only, arguments.kills
        return chaos(paths, seed=arguments.seed, only=only, count=count, limit_s=limit_s)
    if arguments.command == "render":
        return offline.render(arguments.stack, arguments.base, paths)
    if arguments.base:
        return offline.pr_preview(arguments.stack, arguments.base, paths)
    return _pr_preview(stack.open_stack(arguments.stack, paths))


def _with_stack(arguments: argparse.Namespace, paths: LabPaths) -> int:
    """Commands that need a stack on a running cluster."""
    opened = stack.open_stack(arguments.stack, paths)
    match arguments.command:
        case "pulumi":
            return opened.call(*opened.pulumi(*_words(arguments.words)))
        case "preview":
            return _preview(opened)
        case "verify":
            proof, proven = _verify(opened, _outputs(opened), paths)
            print(proof)
            return 0 if proven else 1
        case "sniff":
            for line in sniff(Playground(opened, paths)):
                print(line)
            return 0
        case _:
            return _summary(opened, paths)


def _summary(opened: stack.Stack, paths: LabPaths) -> int:
    """What there is and the proof; fails where an edge is not as it must be."""
    outputs = _outputs(opened)
    serving = _on(opened, paths)
    if opened.on_lab and not serving:
        proof, proven = "not proven: this machine forbids the namespaces that pods run in", True
    else:
        proof, proven = _verify(opened, outputs, paths)
    print(summarise(opened, outputs, _url(paths) if serving else None, proof))
    if not proven:
        print("error: an edge is not mutual TLS, and should be: see ❌ above", file=sys.stderr)
    return 0 if proven else 1


def _on(opened: stack.Stack, paths: LabPaths) -> bool:
    """Whether it runs on a lab whose pods run."""
    found = running(paths) if opened.on_lab else None
    return found is not None and found.isolation is not Isolation.NONE


def _outputs(opened: stack.Stack) -> dict[str, Any]:
    outputs: dict[str, Any] = json.loads(opened.read(*opened.pulumi("stack", "output", "--json")))
    return outputs


def _preview(opened: stack.Stack) -> int:
    """The CLI's own preview, then the objects that change inside the Helm releases."""
    code = opened.call(*opened.pulumi("preview", "--diff"))
    if code:
        return code
    # with --show-sames, because a changed folder of charts is no change to Pulumi
    document = opened.read(*opened.pulumi("preview", "--json", "--show-sames"))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(document)
        file.flush()
        return opened.call(sys.executable, "-m", "review", file.name, *opened.cluster())


def _pr_preview(opened: stack.Stack) -> int:
    """A preview as Markdown, which alone is on standard output, one that failed included."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(_document(opened))
        file.flush()
        names = ("--project", opened.project, "--stack", opened.name)
        review = (sys.executable, "-m", "review", "--markdown", file.name, *names)
        return opened.call(*review, *opened.cluster())


def _document(opened: stack.Stack) -> str:
    """What `pulumi preview --json` says, or why it said nothing, in the same form."""
    try:
        words = opened.pulumi("preview", "--json", "--show-sames")
    except LabError as error:
        return json.dumps({"diagnostics": [{"severity": "error", "message": str(error)}]})
    environment = {**os.environ, **opened.variables}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode and not done.stdout.lstrip().startswith("{"):
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        return json.dumps({"diagnostics": [{"severity": "error", "message": said}]})
    return done.stdout


def _verify(opened: stack.Stack, outputs: dict[str, Any], paths: LabPaths) -> tuple[str, bool]:
    """The table of what was seen, and whether every edge is as it must be."""
    # a cluster of one's own gets no pod for this, and no request
    if opened.on_lab and "productpage" in outputs and outputs["profile"] != "minimal":
        proofs = prove(Playground(opened, paths), outputs, _url(paths), _rows(opened))
        return table(proofs), all(one.ok for one in proofs)
    rows = _rows(opened, "--proxies", "--to", f"*.{Intent.of(outputs).where}")
    found = witnessed(outputs, rows)
    return witness_table(found), all(one.ok for one in found)


def _rows(opened: stack.Stack, *words: str) -> list[dict[str, Any]]:
    """What tlscheck says of the stack's cluster; its exit code 1 is an answer, too.

    Raises:
        LabError: tlscheck could not read the cluster.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tlscheck", *opened.cluster(), "--output", "json", *words],
        cwd=ROOT,
        env={**os.environ, **opened.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise LabError(done.stderr.strip())
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def _dashboard(arguments: argparse.Namespace, paths: LabPaths) -> None:
    """Forward a port to a dashboard of a stack that is there.

    Raises:
        LabError: it is not there, or cannot be reached.
    """
    if stack.needs_lab(arguments.stack) and running(paths) is None:
        raise LabError("no lab is running; `make up` starts one")
    opened = stack.open_stack(arguments.stack, paths)
    part = dashboard.Part(arguments.part)
    dashboard.show(part, opened, _outputs(opened), paths, arguments.port)


def _doctor(name: str, paths: LabPaths) -> int:
    """Check the stack's cluster, with the stack's state where there is one.

    Raises:
        LabError: the stack needs a lab, and none is running.
    """
    if stack.needs_lab(name) and running(paths) is None:
        raise LabError("no lab is running; `make up` starts one")
    opened = stack.open_stack(name, paths)
    words = [sys.executable, "-m", "doctor", *opened.cluster()]
    words += ["--stack", f"{opened.project}/{name}"]
    for flag, key in (("--istio-version", "istioVersion"), ("--namespace", "namespace")):
        words += [flag, value] if (value := opened.setting(key)) else []
    # not opened.pulumi(), which would make the stack
    if opened.call("pulumi", "stack", "select", name, quiet=True):
        return opened.call(*words)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(opened.read("pulumi", "stack", "export", "--stack", name))
        file.flush()
        return opened.call(*words, "--state", file.name)


def _destroy(name: str, paths: LabPaths) -> int:
    """Destroy the stack; on the lab without asking, and the lab goes with it."""
    if stack.needs_lab(name) and running(paths) is None:
        print("the lab is gone" if down(paths) else "there was no lab, so nothing to destroy")
        return 0
    opened = stack.open_stack(name, paths)
    yes = ("--yes", "--skip-preview") if opened.on_lab else ()
    code = opened.call(*opened.pulumi("destroy", *yes))
    if code == 0 and opened.on_lab:
        down(paths)
        print("the lab is gone")
    return code


def _words(words: list[str]) -> list[str]:
    return words[1:] if words[:1] == ["--"] else words


def _url(paths: LabPaths) -> str:
    """Bookinfo's page as a browser on this machine reaches it.

    Raises:
        LabError: there is no lab.
    """
    found = running(paths)
    if found is None:
        raise LabError("no lab is running; `make up` starts one")
    return f"http://127.0.0.1:{found.ingress}/productpage"


def _variables(paths: LabPaths) -> dict[str, str]:
    return stack.variables(paths, ensure(stack.TOOLS))


def _show(paths: LabPaths, found: Running | None) -> None:
    if found is None:
        print("no lab is running; `make lab-up` starts one")
        return
    print(f"lab: API server https://127.0.0.1:{found.port}, isolation {found.isolation}")
    print(f"     kubeconfig {paths.kubeconfig}, logs {paths.logs}")
    if found.isolation is Isolation.NONE:
        print("     this machine forbids namespaces: only istiod runs, other pods are simulated,")
        print("     and there is no ingress, no `make verify` and no `make sniff`")


if __name__ == "__main__":
    sys.exit(main())
