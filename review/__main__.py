"""`python -m review`: the Kubernetes objects that a preview changes inside Helm releases.

With --markdown a comment for a pull request instead: every object that changes, what that does to
the encryption between workloads, and what the guard rails say.

Hooks of charts are left out. Nothing is changed anywhere: helm and kubectl are only asked.
Exit codes: 0; with --markdown 1 if a rule is broken or an edge gets worse; 2 if the input is bad,
the preview failed or a release cannot be rendered. With --markdown there is a comment each time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from review import helm
from review.changes import take_apart
from review.manifests import compare
from review.markdown import comment, failure
from review.objects import before, live, rendered
from review.preview import BadInputError, Op, PreviewFailedError, Step, parse, releases
from review.report import Reviewed, report
from review.rules import broken, verdicts
from review.security import judge

COLOURS = {"~": "33", "+": "32", "-": "31", "=": "36"}
"""ANSI colour of a line by its first sign."""
CANNOT = "the preview cannot be reviewed"


def review(step: Step, source: helm.Source) -> Reviewed:
    """What differs in one release.

    Raises:
        RenderError: One of its two sides cannot be rendered.
        YAMLError: What was rendered is not YAML.
    """
    found = Reviewed(name=step.release.name, op=step.op, notes=[])
    if step.hidden:
        found.notes.append(f"values not rendered, secret or not known: {', '.join(step.hidden)}")
    if step.op is Op.REPLACE:
        found.notes.append("every object is deleted and made again, unchanged ones too")
    known = live if step.op is Op.SAME else before
    old = known(step, source, found.notes)
    if old is None:
        found.notes.append("only the cluster can tell whether the chart folder has changed")
        return found
    difference = compare(old, rendered(step, source))
    if step.op is Op.SAME and (difference.changes or difference.relabelled):
        only = "Pulumi sees only the version of a chart folder"
        found.notes.append(f"`pulumi up` will NOT apply this: {only}")
    return replace(found, difference=difference)


def markdown(options: argparse.Namespace, runner: helm.Runner) -> int:
    """Prints the comment and returns the exit code."""
    project, stack = options.project or "", options.stack or ""
    try:
        document = parse(_read(options.preview))
        project, stack = project or document.names[0], stack or document.names[1]
        source, note = helm.connect(runner, options.context, options.kubeconfig)
        found = take_apart(document, source)
        found.notes.insert(0, note)
        security = judge(found.before, found.after, document)
        judged = verdicts(document)
        text = comment(project, stack, found, security, judged)
    except PreviewFailedError as error:
        project, stack = project or error.names[0], stack or error.names[1]
        print(failure(project, stack, "the preview failed", error.messages), end="")
        return 2
    except RecursionError:
        print(failure(project, stack, CANNOT, ["the preview is nested too deep"]), end="")
        return 2
    except (BadInputError, OSError, UnicodeError, yaml.YAMLError) as error:
        print(failure(project, stack, CANNOT, [str(error)]), end="")
        return 2
    print(text, end="")
    if found.failed:
        return 2
    return 1 if security.worse or broken(judged) else 0


def _read(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")


def main(argv: Sequence[str] | None = None, runner: helm.Runner = helm.run) -> int:
    """Prints the review and returns the exit code."""
    parser = argparse.ArgumentParser(prog="review", description=__doc__)
    parser.add_argument("preview", help="file with `pulumi preview --json --show-sames`, or -")
    parser.add_argument("--context", help="kubeconfig context; without it no cluster is asked")
    parser.add_argument("--kubeconfig", default="", help="path of the kubeconfig")
    parser.add_argument("--full", action="store_true", help="whole objects and all differences")
    parser.add_argument("--markdown", action="store_true", help="a comment for a pull request")
    parser.add_argument("--stack", help="with --markdown: its name, where the preview has none")
    parser.add_argument("--project", help="likewise: the program's name")
    options = parser.parse_args(argv)
    if options.markdown:
        return markdown(options, runner)
    colours = COLOURS if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else {}
    code = 0
    try:
        document = parse(_read(options.preview))
        steps = [
            step for step in releases(document) if step.op is not Op.SAME or step.release.folder
        ]
        if not steps:
            print("No Helm release changes.")
            return 0
        source, note = helm.connect(runner, options.context, options.kubeconfig)
        print(f"Objects inside Helm releases, {note}:")
        for step in steps:
            try:
                found = review(step, source)
            except (helm.RenderError, yaml.YAMLError) as error:
                note, code = " ".join(f"cannot be rendered: {error}".split()), 2
                found = Reviewed(name=step.release.name, op=step.op, notes=[note])
            print()
            for line in report(found, full=options.full):
                colour = colours.get(line.lstrip()[:1])
                print(f"\x1b[{colour}m{line}\x1b[0m" if colour else line)
    except (BadInputError, OSError, UnicodeError, yaml.YAMLError) as error:
        print("review:", *str(error).split(), file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
