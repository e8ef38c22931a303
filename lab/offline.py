"""A stack's objects without a cluster: rendered, analysed, and compared with how they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lab import stack
from lab.lifecycle import LabError
from lab.paths import ROOT, LabPaths
from lab.toolchain import ensure
from lab.verify import Intent

RENDERED = ROOT / "rendered"
"""One folder per stack; gitignored."""


def render(name: str, base: str | None, paths: LabPaths) -> int:
    """Write the objects of a stack to `rendered/STACK` and say what they are worth.

    Args:
        name: the stack. One that names no cluster gets the lab's charts and settings.
        base: a git ref to compare with, if any.
        paths: of the lab that the stack would run on; it is not started.

    Returns:
        0; 1 where istioctl finds an error; 2 where nothing can be rendered, or judged.

    Raises:
        LabError: istioctl did not answer.
        ToolchainError: a program could not be had.
    """
    # relative: istioctl and tlscheck repeat it
    folder = str((RENDERED / name).relative_to(ROOT))
    opened, settings = _open(name, paths, "helm", "istioctl")
    with tempfile.TemporaryDirectory() as temporary:
        document = Path(temporary) / "preview.json"
        code = _render(opened, settings, base, "--out", folder, "--json", str(document))
        if code:
            return code
        outputs = _outputs(json.loads(document.read_text(encoding="utf-8")))
    lines, failed = analyse(folder, {**os.environ, **opened.variables})
    print("", *lines, "", sep="\n", flush=True)
    to = ["--to", f"*.{Intent.of(outputs).where}"] if "mtls" in outputs else []
    code = opened.call(sys.executable, "-m", "tlscheck", "-f", folder, *to)
    return code or int(failed)


def pr_preview(name: str, base: str, paths: LabPaths) -> int:
    """Print what differs from a git ref as Markdown.

    Args:
        name: the stack, as for `render`.
        base: the git ref.
        paths: of the lab that the stack would run on; it is not started.

    Returns:
        The exit code of `review`; 2 where nothing can be rendered.

    Raises:
        ToolchainError: a program could not be had.
    """
    opened, settings = _open(name, paths, "helm")
    with tempfile.TemporaryDirectory() as temporary:
        document = str(Path(temporary) / "preview.json")
        code = _render(opened, settings, base, "--json", document)
        names = ("--project", opened.project, "--stack", name)
        review = (sys.executable, "-m", "review", "--markdown", document, *names)
        return code or opened.call(*review)


def _open(name: str, paths: LabPaths, *programs: str) -> tuple[stack.Stack, dict[str, Any]]:
    """The stack with these programs on its PATH, and the settings that a lab would add."""
    on_lab = stack.needs_lab(name)
    tools = ensure([*programs, *(["charts"] if on_lab else [])])
    settings = stack.offline(paths, tools.share / "charts") if on_lab else {}
    path = {"PATH": f"{tools.bin_dir}{os.pathsep}{os.environ['PATH']}"}
    return stack.Stack(name=name, variables=path, config=None), settings


def _render(opened: stack.Stack, settings: dict[str, Any], base: str | None, *words: str) -> int:
    given = [f"{key}={stack.as_text(value)}" for key, value in settings.items()]
    arguments = ["--stack", opened.name, *words]
    arguments += [word for setting in given for word in ("--config", setting)]
    arguments += ["--base-ref", base] if base else []
    return opened.call(sys.executable, "-m", "render", *arguments)


def _outputs(document: dict[str, Any]) -> dict[str, Any]:
    """The stack's own, as `pulumi stack output` would say them."""
    states = [step["newState"] for step in document["steps"] if "newState" in step]
    (found,) = [state for state in states if state["type"] == "pulumi:pulumi:Stack"]
    outputs: dict[str, Any] = found.get("outputs", {})
    return outputs


def analyse(folder: str, environment: dict[str, str]) -> tuple[list[str], bool]:
    """What `istioctl analyze` says of a folder, and whether an error is in it.

    Raises:
        LabError: it did not answer.
    """
    # without --all-namespaces it hides what it finds outside the namespace `default`
    words = ["istioctl", "analyze", "--use-kube=false", "--all-namespaces", "--verbose", folder]
    done = subprocess.run(
        [*words, "--output", "json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout or "[]")
    except ValueError as error:
        raise LabError(f"{' '.join(words)}:\n{done.stderr.strip()}") from error
    _, _, rest = done.stderr.partition("Skipped analyzers:")
    skipped, executed, names = rest.partition("Executed analyzers:")
    if not executed:
        raise LabError(f"{' '.join(words)}:\n{done.stderr.strip()}")
    left_out = skipped.split()
    ran = [line for line in names.splitlines() if line.startswith("\t")]
    lines = [
        f"istioctl analyze: {len(found)} findings by {len(ran) - len(left_out)} analyzers;"
        f" {len(left_out)} more look at Services, Namespaces or pods of a cluster only"
    ]
    lines += [
        f"  {one['level']} [{one['code']}] {one['origin']}: {one['message']}" for one in found
    ]
    return lines, any(one["level"] == "Error" for one in found)
