"""`python -m review`: the Kubernetes objects that a preview changes inside Helm releases.

Hooks of charts are left out. Nothing is changed anywhere: helm and kubectl are only asked.
Exit codes: 0, and 2 if the input is bad or a release cannot be rendered.
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
from review.manifests import Key, Object, compare, split
from review.preview import BadInputError, Op, Step, parse
from review.report import Reviewed, report

COLOURS = {"~": "33", "+": "32", "-": "31", "=": "36"}
"""ANSI colour of a line by its first sign."""


def before(step: Step, source: helm.Source, notes: list[str]) -> dict[Key, Object] | None:
    """The objects that are there now; None if only the cluster could tell.

    Raises:
        RenderError: The inputs of the last update cannot be rendered.
    """
    if step.old is None:
        return {}
    # the manifest in the cluster holds the secrets that the CLI hides: it must not be printed
    if source.cluster and not step.hidden:
        try:
            text = helm.live(source, step.old)
        except helm.RenderError as error:
            notes.append(f"its manifest cannot be read from the cluster: {error}")
        else:
            if text is None:
                notes.append("Pulumi's state has this release, the cluster does not")
            return split(text or "")
    if step.op is Op.SAME:
        notes.append("only the cluster can tell whether the chart folder has changed")
        return None
    folder = ", with the chart folder as it is now" if step.old.folder else ""
    notes.append(f"compared with the inputs of the last update, rendered again{folder}")
    return split(helm.template(source, step.old, upgrade=step.op is Op.UPDATE))


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
    old, new = before(step, source, found.notes), {}
    if old is None:
        return found
    if step.new:
        upgrade = step.op in {Op.UPDATE, Op.SAME}
        new = split(helm.template(source, step.new, upgrade=upgrade))
    difference = compare(old, new)
    if step.op is Op.SAME and (difference.changes or difference.relabelled):
        only = "Pulumi sees only the version of a chart folder"
        found.notes.append(f"`pulumi up` will NOT apply this: {only}")
    return replace(found, difference=difference)


def main(argv: Sequence[str] | None = None, runner: helm.Runner = helm.run) -> int:
    """Prints the review and returns the exit code."""
    parser = argparse.ArgumentParser(prog="review", description=__doc__)
    parser.add_argument("preview", help="file with `pulumi preview --json --show-sames`, or -")
    parser.add_argument("--context", help="kubeconfig context; without it no cluster is asked")
    parser.add_argument("--kubeconfig", default="", help="path of the kubeconfig")
    parser.add_argument("--full", action="store_true", help="whole objects and all differences")
    options = parser.parse_args(argv)
    colours = COLOURS if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else {}
    code = 0
    try:
        piped = options.preview == "-"
        steps = parse(sys.stdin.read() if piped else Path(options.preview).read_text("utf-8"))
        steps = [step for step in steps if step.op is not Op.SAME or step.release.folder]
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
